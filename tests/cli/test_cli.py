"""Every error of tapir-ray is one line and an exit status, also if Ray has wrapped it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import ray.data
import yaml

from tapir_ray import cli, errors
from tapir_ray.cli.verbs import VERBS
from tapir_ray.errors import InputError, StageError, TapirError


def broken(batch: pa.Table) -> Iterator[pa.Table]:
    raise InputError("seed_data.path x: mend it")
    yield batch


def chained() -> None:
    try:
        raise StageError("no sequence")
    except StageError as error:
        raise RuntimeError("a library's own") from error


def lost() -> None:
    raise StageError("no sequence")


def of_a_task() -> None:
    ray.get(ray.remote(num_cpus=0.1)(lost).remote())


def of_a_pipeline() -> None:
    ray.data.range(1).map_batches(broken, batch_format="pyarrow", num_cpus=0.1).materialize()


@pytest.mark.parametrize(
    ("function", "status", "line"),
    [
        (chained, 1, "tapir: no sequence\n"),
        (of_a_task, 1, "tapir: no sequence\n"),
        (of_a_pipeline, 2, "tapir: seed_data.path x: mend it\n"),
    ],
)
def test_a_wrapped_error_is_shown_alone(
    ray_local: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    function: object,
    status: int,
    line: str,
) -> None:
    monkeypatch.setattr(VERBS["run"], "run", lambda options: function() or 0)  # type: ignore[operator]
    assert cli.main(["run", "c.yaml"]) == status
    assert line in capsys.readouterr().err


def test_an_error_of_another_class_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(options: argparse.Namespace) -> int:
        raise ValueError("ours to mend") from OSError("x")

    monkeypatch.setattr(VERBS["run"], "run", fails)
    with pytest.raises(ValueError, match="ours to mend"):
        cli.main(["run", "c.yaml"])
    assert errors.own_error(ValueError("x")) is None
    stopped = TapirError("x")
    assert errors.own_error(stopped) is stopped


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "r.jsonl"], "needs --model, or classify.by: deberta"),
        ([], "needs --rows: files with the task of each row"),
        (["--rows", "Maths=r.jsonl", "--model", "MODEL"], "--rows Maths=r.jsonl: unknown task 'Maths'"),
        (["--rows", "r.jsonl", "--model", "MODEL", "--set", "seed_data.task_column=null"], "or write TASK=FILE"),
        (["--rows", "none/r.jsonl", "--model", "MODEL"], "--rows none/r.jsonl: there is no such file"),
        (["--rows", "r.jsonl", "--model", "none/at/all"], "none/at/all is neither a model folder nor a HF name"),
    ],
)
def test_classifier_score_names_the_missing_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"id2label": {"0": "Math"}}')
    seed_data = {"path": "owner/name", "task_column": "task"}
    config = {"name": "x", "student": {"model": "owner/student"}, "seed_data": seed_data, "classify": {"by": "none"}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    given = [str(tmp_path / "model") if argument == "MODEL" else argument for argument in arguments]
    assert cli.main(["classifier", "score", str(tmp_path / "c.yaml"), *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
