"""Rows of `tapir check`: each reports the risk that it is for, and passes without it."""

from __future__ import annotations

import json
import shutil
from collections import Counter, namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.api.checks import (
    FAIL,
    PASS,
    UNKNOWN,
    WARN,
    Finding,
    Subject,
    config_keys,
    memory,
    roles,
    seed_rows,
    storage,
)
from tapir_ray.api.checks.sizes import ModelSize, model_size
from tapir_ray.api.checks.template import end_of_answers
from tapir_ray.config import Config, Lora, Train, parse
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.sizes import Sizes
from tapir_ray.train.create_student import create_student

REPORT = {"pilot_rows": 0, "tokens": 1_000, "cost": 0.5, "over_length_share": 0.0, "over_length": "filter"}
GIB = 2**30
LLAMA_7B = ModelSize(6_738_415_616, 32, 4096, 32_000, 2 * 32 * 32 * 128, "float16")


def config(**sections: Any) -> Config:
    create = {"hidden_size": 32, "heads": 4, "layers": 2, "max_length": 128}
    sizes = {"max_model_len": 128, "sampling": {"max_tokens": 8}}
    student = {**sizes, **sections.pop("student", {"create": create})}
    return parse(
        {
            "name": "checked",
            "seed_data": {"path": "a.jsonl"},
            "student": student,
            "teacher": {
                "base_url": "http://127.0.0.1:9/v1",
                "api_key_env": None,
                "model": "t",
                "price": {"input": 1.0, "output": 2.0},
            },
            "judge": {"same_as": "teacher"},
            "train": {"sequence_length": 128},
            **sections,
        }
    )


def subject(one: Config | None = None, answers: list[str] | None = None, **given: Any) -> Subject:
    rows = [
        {"instruction_id": str(n), "messages": [{"role": "user", "content": f"q{n}"}], "response": answer}
        for n, answer in enumerate(answers or [])
    ]
    sizes, messages = given.pop("sizes", Sizes()), given.pop("messages", ())
    folder = given.pop("run_dir", "runs/checked")
    return Subject(one or config(), folder, Seed(usable=len(rows), sample=rows), sizes, {**REPORT, **given}, messages)


def status(findings: Any) -> list[str]:
    return [finding.status for finding in findings]


def test_a_warning_is_a_row_with_what_to_change() -> None:
    told = ["warning: the judge is the teacher: it may prefer its own answers; name another model in judge.model"]
    (row,) = config_keys.settings(subject(messages=told))
    assert row == Finding(
        "config", WARN, "the judge is the teacher: it may prefer its own answers", "name another model in judge.model"
    )
    assert status(config_keys.settings(subject())) == [PASS]


def test_a_budget_below_the_forecast_is_reported() -> None:
    one = config(budget={"max_tokens": 500, "max_cost": 1.0})
    assert status(config_keys.budget(subject(one))) == [WARN, PASS]
    rich = config(budget={"max_tokens": 20_000_000})
    (row,) = config_keys.budget(subject(rich, tokens=989_136))
    assert row.found == "989,136 of 20,000,000 tokens"
    assert status(config_keys.budget(subject(one, tokens=500, cost=None))) == [PASS, WARN], "a price is unknown"


def test_an_endpoint_is_known_to_answer_only_after_a_pilot() -> None:
    assert [(row.name, row.status) for row in roles.endpoints(subject())] == [("teacher", UNKNOWN), ("judge", PASS)]
    assert status(roles.endpoints(subject(pilot_rows=50))) == [PASS, PASS]


@pytest.mark.parametrize(("cut", "expected"), [(0, PASS), (1, PASS), (2, WARN), (40, WARN)])
def test_a_teacher_that_cuts_off_is_found_by_the_pilot(cut: int, expected: str) -> None:
    sizes = Sizes(asked={"respond": 40, "fill": 10}, reasons={"respond": Counter({"cut_off": cut, "refused": 3})})
    (row,) = roles.cut_off(subject(sizes=sizes, pilot_rows=50))
    assert row.status == expected and f"{cut} of 50" in row.found
    assert status(roles.cut_off(subject())) == [UNKNOWN]


@pytest.mark.parametrize(("share", "expected"), [(0.0, PASS), (0.01, PASS), (0.2, WARN), (None, UNKNOWN)])
def test_pairs_over_the_length(share: float | None, expected: str) -> None:
    assert status(seed_rows.length(subject(answers=["a"], over_length_share=share))) == [expected]


LONG_ANSWER = "I am sorry, but I cannot answer this question at the moment."


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([f"answer {n}" for n in range(100)], PASS),
        ([f"answer {n}" for n in range(97)] + [LONG_ANSWER] * 3, WARN),
        ([f"answer {n}" for n in range(98)] + [LONG_ANSWER] * 2, PASS),
        ([f"answer {n}" for n in range(90)] + ["yes"] * 10, PASS),
        ([f"answer {n}" for n in range(70)] + ["None"] * 30, WARN),
        ([f"{LONG_ANSWER}\n" if n % 2 else LONG_ANSWER.replace(" ", "  ") for n in range(100)], WARN),
    ],
)
def test_answers_that_repeat(answers: list[str], expected: str) -> None:
    """Three of 97 other answers are 3 %; two are not counted, and short answers repeat by nature."""
    assert status(seed_rows.repeated_answers(subject(answers=answers))) == [expected]


Machine = namedtuple("Machine", "total")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The GPUs of this machine, by their bytes."""
    found: list[int] = []
    monkeypatch.setattr(memory, "_gpus", lambda: found)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return found


def test_claims_without_a_place_fail(gpus: list[int]) -> None:
    claims = {"resources": {"cpus": 8, "student": {"gpus": 1, "cpus": 1}, "train": {"gpus": 1, "cpus": 1}}}
    (row,) = memory.capacity(subject(config(**claims)))
    assert row.status == FAIL and "resources.student" in row.todo
    gpus.append(24 * GIB)
    assert status(memory.capacity(subject(config(**claims)))) == [PASS]


@pytest.mark.parametrize(
    ("settings", "workers", "per_weight"),
    [
        ({"zero_stage": 0}, 1, 16),
        ({"zero_stage": 1}, 4, 2 + 2 + 12 / 4),
        ({"zero_stage": 2}, 4, 2 + (2 + 12) / 4),
        ({"zero_stage": 3}, 4, 16 / 4),
        ({"zero_stage": 2, "micro_batch_size": 1}, 4, 2 + (4 + 12) / 4),
        ({"zero_stage": 2, "precision": "float32"}, 1, 16),
    ],
)
def test_the_state_of_a_training_by_zero_stage(settings: dict[str, Any], workers: int, per_weight: float) -> None:
    """ZeRO (arXiv 1910.02054, figure 1): 16 bytes for each weight, divided by stage."""
    train = Train(**{"global_batch_size": 8, "micro_batch_size": 8, "precision": "bfloat16", **settings})
    found = memory.state_bytes(LLAMA_7B, train, workers) / LLAMA_7B.parameters
    assert found == pytest.approx(per_weight)


def test_a_7b_model_needs_an_adapter_on_24_gb(gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    linear = (("layers.0.q_proj", 4096, 4096),) * 32
    monkeypatch.setattr(memory, "model_size", lambda one: replace(LLAMA_7B, linear=linear))
    gpus.append(24 * GIB)
    one = config(resources={"student": {"gpus": 1}, "train": {"gpus": 1}})
    train = {"sequence_length": 1024, "gradient_checkpointing": True, "micro_batch_size": 1, "global_batch_size": 8}
    (full,) = memory.training(subject(one.model_copy(update={"train": Train(**train)})))
    assert full.status == FAIL and "train.lora" in full.todo
    (adapter,) = memory.training(subject(one.model_copy(update={"train": Train(**train, lora=Lora())})))
    assert adapter.status == PASS, adapter.found


def test_weights_and_cache_of_the_engine(gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 12.6 GiB in 16 bits, and 1 GiB for 2,048 tokens."""
    monkeypatch.setattr(memory, "model_size", lambda one: LLAMA_7B)
    one = config(resources={"student": {"gpus": 1}, "train": {"gpus": 1}})
    student = one.student.model_copy(update={"max_model_len": 2048})
    one = one.model_copy(update={"student": student})
    gpus.append(24 * GIB)
    (row,) = memory.answering(subject(one))
    assert row.status == PASS and "weights 12.6 GiB" in row.found and "7 at once" in row.found
    gpus[0] = 16 * GIB
    assert status(memory.answering(subject(one))) == [FAIL]
    gpus.clear()
    assert status(memory.answering(subject(one))) == [UNKNOWN]


def test_on_cpus_all_workers_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: Machine(4 * GIB))
    assert status([*memory.answering(subject()), *memory.training(subject())]) == [PASS, PASS]
    many = config(train={"sequence_length": 128, "global_batch_size": 8}, resources={"train": {"replicas": 8}})
    assert status(memory.training(subject(many))) == [FAIL]


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = namedtuple("Usage", "free")
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: free(10**9))
    assert status(storage.disk(subject(run_dir=str(tmp_path / "new/run")))) == [PASS]
    monkeypatch.setattr(storage, "model_size", lambda one: LLAMA_7B)
    (row,) = storage.disk(subject(run_dir=str(tmp_path / "new/run")))
    assert row.status == FAIL and "--run-dir" in row.todo
    assert status(storage.disk(subject(run_dir="s3://bucket/run"))) == [UNKNOWN]


def test_the_size_of_a_created_student_is_that_of_its_weights() -> None:
    found = model_size(config())
    assert found is not None and found.kv_values == 2 * 2 * 32 and found.dtype == "float32"
    assert {name.rpartition(".")[2] for name, _, _ in found.linear} >= {"q_proj", "down_proj"}
    assert found.trained(None) == found.parameters
    assert found.trained(Lora(rank=4)) < found.parameters / 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with a chat template of its own."""
    made = str(tmp_path_factory.mktemp("student") / "model")
    create = config().student.create
    assert create is not None
    create_student(create, ["some text to learn from"] * 20, made, "plain", 0)
    return made


def of_folder(folder: str, **sections: Any) -> list[Finding]:
    student = {"model": folder, **sections.pop("student", {})}
    return list(end_of_answers(subject(config(student=student, train={"sequence_length": 128, **sections}))))


def test_the_end_of_an_answer_is_shown(folder: str) -> None:
    (row,) = of_folder(folder)
    assert row.status == PASS and "the model's own template ends an answer with" in row.found


def test_another_template_than_that_of_a_chat_model(folder: str) -> None:
    (row,) = of_folder(folder, student={"chat_template": "vicuna"})
    assert row.status == WARN and "replaces the template" in row.found
    assert status(of_folder(folder, student={"chat_template": "plain"})) == [PASS], "it is the same template"


def test_marks_that_a_base_model_does_not_know(folder: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    (base / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    (row,) = of_folder(str(base), student={"chat_template": "chatml"})
    assert row.status == WARN and "plain text for this tokenizer" in row.found and "plain" in row.todo


def test_a_model_that_is_not_here_is_not_guessed() -> None:
    one = config(student={"model": "nobody/not-here-7b"})
    rows = [*end_of_answers(subject(one)), *memory.answering(subject(one)), *memory.training(subject(one))]
    assert status(rows) == [UNKNOWN] * 3
