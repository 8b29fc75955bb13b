"""Exported students: the files of the model alone, with a card whose figures are those of this student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_ray.errors import InputError
from tapir_ray.methods import layout_of
from tapir_ray.report.export.student import export_student, refuse_local_base
from tests.report.export.runs import (
    LICENSE,
    TEACHER,
    checkpoint,
    finished_run,
    instruction,
    pair,
    scored,
    weights_of,
    write,
)

OF_THE_MODEL = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("which", "found", "path"),
    [
        (None, "best", "checkpoints/01"),
        ("best", "best", "checkpoints/01"),
        ("last", "last", "checkpoints/02"),
        ("initial", "initial", "checkpoints/00"),
        ("control", "control", "control/sft/02/checkpoint"),
    ],
)
def test_each_student_is_exported_without_the_files_of_the_run(
    tmp_path: Path, which: str | None, found: str, path: str
) -> None:
    run, tables = finished_run(tmp_path, control="sft")
    for one in tables.controls:
        write(run, one.training, [pair(instruction("PLAIN"))])
        checkpoint(run, one.checkpoint)
        write(run, one.evaluation, [scored("HELD", 8.0, 3.5, 0.0, split="holdout")])
    out = tmp_path / "out"
    chosen = export_student(run.uri, layout_of, str(out), which)
    assert chosen.which == found
    assert names(out) == {*OF_THE_MODEL, "README.md"}
    assert weights_of(out) == path


def test_the_card_has_the_scores_of_this_student(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    figures = {}
    for which in ("initial", "best", "last"):
        export_student(run.uri, layout_of, str(tmp_path / which), which)
        card = (tmp_path / which / "README.md").read_text()
        figures[which] = next(line for line in card.splitlines() if line.startswith("Judge's score"))
        assert str(tmp_path) not in card, "a card must not publish local folders"
    # The holdout's scores are 4, 6 and 7 after rounds 0, 1 and 2.
    assert [figures[which].rpartition(": ")[2] for which in figures] == [
        "4.00 [4.00, 4.00].",
        "6.00 [6.00, 6.00].",
        "7.00 [7.00, 7.00].",
    ]
    card = (tmp_path / "last" / "README.md").read_text()
    said = yaml.safe_load(card.split("---\n")[1])
    assert said["base_model"] == "owner/small" and said["library_name"] == "transformers"
    for text in (
        "| curriculum.rounds | 2 |",
        "| seed/training | 4 |",
        "| rounds/02/training | 3 |",
        f"| {LICENSE} |",
        f"| {TEACHER} |",
        "Over the student before the rounds: +3.00 [+3.00, +3.00] on 1 holdout rows",
        "| seed/contamination | holdout | exact | 1 |",
        "The licence of the base `owner/small` holds",
        "check them before you pass",
    ):
        assert text in card, text
    assert "rounds/02/training" not in (tmp_path / "best" / "README.md").read_text()


def test_an_adapter_goes_with_the_tokenizer_and_without_the_weights(tmp_path: Path) -> None:
    run, tables = finished_run(tmp_path, train={"initial_sft": "on", "lora": {"between_rounds": "continue"}})
    folder = f"{tables.round(1).checkpoint}/adapter"
    run.write_json(f"{folder}/adapter_config.json", {"base_model_name_or_path": "owner/small", "r": 16})
    run.write_text(f"{folder}/adapter_model.safetensors", "adapter")
    out = tmp_path / "out"
    export_student(run.uri, layout_of, str(out), "best", adapter=True)
    assert names(out) == {
        *OF_THE_MODEL - {"model.safetensors", "config.json"},
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    assert yaml.safe_load((out / "README.md").read_text().split("---\n")[1])["library_name"] == "peft"
    refuse_local_base(out)
    (out / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    with pytest.raises(InputError, match="leave --adapter out to push the merged weights"):
        refuse_local_base(out)
    export_student(run.uri, layout_of, str(tmp_path / "merged"), "best")
    assert names(tmp_path / "merged") == {*OF_THE_MODEL, "README.md"}
    with pytest.raises(InputError, match="the student of round 2 has no adapter"):
        export_student(run.uri, layout_of, str(tmp_path / "none"), "last", adapter=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("which", "sections", "message"),
    [
        ("control", {}, r"--student control: .* has no control \(control: none\)"),
        ("control", {"control": "sft"}, "has trained no control yet"),
    ],
)
def test_a_student_that_is_not_there_is_refused(
    tmp_path: Path, which: str, sections: dict[str, Any], message: str
) -> None:
    run, _ = finished_run(tmp_path, **sections)
    with pytest.raises(InputError, match=message):
        export_student(run.uri, layout_of, str(tmp_path / "out"), which)


def test_a_run_under_way_gives_its_last_student_and_an_untrained_one_none(tmp_path: Path) -> None:
    run, tables = finished_run(tmp_path)
    run.write_json("summary.json", {"status": "stopped"})
    with pytest.raises(InputError, match="has chosen no round yet"):
        export_student(run.uri, layout_of, str(tmp_path / "out"), "best")
    run.clear(tables.round(2).checkpoint)
    chosen = export_student(run.uri, layout_of, str(tmp_path / "out"))
    assert (chosen.which, chosen.round) == ("last", 1)
    run.publish(tables.sft_checkpoint, [], extra={"model": "owner/small"})
    with pytest.raises(InputError, match="the initial student is owner/small itself"):
        export_student(run.uri, layout_of, str(tmp_path / "two"), "initial")
    with pytest.raises(InputError, match="trains all weights"):
        export_student(run.uri, layout_of, str(tmp_path / "two"), "last", adapter=True)
