"""Obstacles to writing a student are found before its first step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

from tapir_ray.config import Student, Train
from tapir_ray.errors import InputError
from tapir_ray.train.chat import load_tokenizer
from tapir_ray.train.export_check import try_export
from tapir_ray.train.generation import adapt
from tapir_ray.train.student_check import check_student


def given(model: str, tmp_path: Path, **generation: Any) -> str:
    """Returns the folder of a copy of the student with this generation config."""
    folder = tmp_path / "student"
    shutil.copytree(model, folder)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return str(folder)


def check(folder: str) -> list[str]:
    return check_student(Student(model=folder, max_model_len=64), Train(sequence_length=64))


@pytest.mark.parametrize(
    ("generation", "left_out"),
    [
        ({"early_stopping": True}, ["early_stopping"]),
        ({"length_penalty": 0.5, "num_beams": 1}, ["length_penalty"]),
        ({"num_beams": 4, "early_stopping": True, "length_penalty": 0.5}, []),
        ({"output_scores": True, "output_attentions": True, "output_hidden_states": True},
         ["output_attentions", "output_hidden_states", "output_scores"]),
        ({"output_scores": True, "return_dict_in_generate": True}, []),
        ({"cache_implementation": "static", "use_cache": False}, ["cache_implementation"]),
        ({"cache_implementation": "hybrid"}, []),
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": False}, ["temperature", "top_p"]),
        ({"temperature": 0.6, "early_stopping": True}, ["early_stopping"]),
        ({"pad_token_id": -1}, []),
        ({"repetition_penalty": 1.1, "my_own": 3}, []),
    ],
)  # fmt: skip
def test_a_generation_config_is_written_without_invalid_keys(
    model: str, tmp_path: Path, generation: dict[str, Any], left_out: list[str]
) -> None:
    folder = given(model, tmp_path, **generation)
    warnings = check(folder)
    assert (", ".join(left_out) in warnings[0]) if left_out else warnings == []
    tokenizer = load_tokenizer(folder, Student(model=folder))
    config = AutoModelForCausalLM.from_pretrained(folder).generation_config
    assert adapt(config, tokenizer, [4]) == left_out
    config.save_pretrained(tmp_path / "out")
    written = GenerationConfig.from_pretrained(tmp_path / "out")
    assert written.eos_token_id == 4
    for key, value in generation.items():
        if key not in left_out and key != "pad_token_id":
            assert getattr(written, key) == value
    assert not any(getattr(written, key) == generation[key] for key in left_out)


@pytest.mark.parametrize(
    "generation", [{"cache_implementation": "nope"}, {"early_stopping": "sometimes"}, {"num_return_sequences": 3}]
)
def test_a_generation_config_that_cannot_be_loaded_is_refused(
    model: str, tmp_path: Path, generation: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=f"student.model.*{next(iter(generation))}"):
        check(given(model, tmp_path, **generation))


def test_a_tokenizer_that_changes_when_it_is_written_is_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student = Student(model=model)
    tokenizer, loaded = load_tokenizer(model, student), AutoModelForCausalLM.from_pretrained(model)
    assert try_export(loaded, tokenizer, model, student) == []

    def save_another(folder: str) -> None:
        lossy = load_tokenizer(model, student)
        lossy.add_tokens(["<more>"])
        lossy.save_pretrained(folder)

    monkeypatch.setattr(tokenizer, "save_pretrained", save_another)
    with pytest.raises(InputError, match="tokenizer with other ids"):
        try_export(loaded, tokenizer, model, student)
