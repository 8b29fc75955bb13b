"""Trackers of the project, with their real packages on local files: names, steps, and a run that goes on."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import parse
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError
from tapir_ray.run.trackers import RunInfo, background
from tapir_ray.run.trackers.curves import Curves, points_of
from tapir_ray.run.trackers.tensorboard import TensorBoard

CONFIG = {
    "name": "tracked",
    "student": {"model": "m"},
    "seed_data": {"path": "a.jsonl"},
    "teacher": {"base_url": "http://127.0.0.1:9/v1", "model": "t", "api_key_env": None},
}
BLOCK, FULL, LAST = 32 * 1024, 1, 4
"""Of LevelDB's log format: bytes of a block, and kinds of a whole record and of the end of one."""


def info(folder: Path | str, attempt: int, **earlier: Any) -> RunInfo:
    content = {"name": "mine", "train": {"epochs": 2}}
    return RunInfo("mine-1a2b-3c4d", "mine", str(folder), attempt, content, **{"earlier": (), **earlier})


def steps(first: int, *losses: float) -> list[dict[str, Any]]:
    return [
        {"training": "a", "step": first + n, "run_step": first + n, "loss": loss, "learning_rate": 1e-4}
        for n, loss in enumerate(losses)
    ]


def usage(requests: int, cost: float) -> dict[str, Any]:
    return {"teacher": {"respond": {"requests": requests, "cost": cost}}, "student": {}}


PLAN = {
    "alpha": 0.3, "threshold": 2.0, "ceiling": None, "hard": 7, "student_score": 4.5, "student_scores": {"Q&A": 5.0},
}  # fmt: skip


def attempts(make: type[Curves], folder: Path | str) -> None:
    """Logs a run that is killed and continued, as the run and the trackers' thread do."""
    first = make()
    first.start(info(folder, 1))
    first.log("plan", PLAN, 1)
    first.progress([], usage(10, 0.5))
    first.log_steps("train", steps(0, 5.0, 4.0), 1)
    first.end("stopped")
    done = [("train", line, 1) for line in steps(0, 5.0, 4.0, 3.0)]  # a step that no tracker was told
    second = make()
    second.start(info(folder, 2, earlier=[("plan", PLAN, 1)], earlier_steps=done))
    second.log("plan", PLAN, 1)
    second.progress([], usage(10, 0.5))
    second.log_steps("train", steps(2, 3.0, 2.0), 1)
    second.progress([], usage(25, 1.5))
    second.log("holdout", {"holdout_score": 6.5, "rows": 300}, 1)
    second.log("stage", {"stage": "train", "seconds": 12.5}, 1)
    second.end("completed")


def check(curves: dict[str, list[tuple[int, float]]]) -> None:
    assert curves["train/loss"] == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)], "each step once, in order"
    assert curves["cost/dollars"] == [(10, 0.5), (25, 1.5)]
    assert curves["curriculum/alpha"] == [(1, pytest.approx(0.3))] and curves["curriculum/delta"] == [(1, 2.0)]
    assert curves["judge/score/Q_A"] == [(1, 5.0)] and curves["judge/student_score"] == [(1, 4.5)]
    assert curves["holdout/score"] == [(1, 6.5)] and curves["seconds/train"] == [(1, 12.5)]
    assert "curriculum/ceiling" not in curves


def tensorboard_curves(storage: Storage) -> dict[str, list[tuple[int, float]]]:
    """Reads the event files by the format's description, not by the code under test."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for name in storage.children("tensorboard"):
        with storage.fs.open_input_stream(storage.path(f"tensorboard/{name}")) as stream:
            while header := stream.read(12):
                content = stream.read(int.from_bytes(header[:8], "little") + 4)[:-4]
                event = Event.FromString(content)
                for value in event.summary.value:
                    found[value.tag].append((event.step, value.simple_value))
    return found


def test_tensorboard_has_each_number_once(tmp_path: Path) -> None:
    attempts(TensorBoard, tmp_path)
    check(tensorboard_curves(Storage.at(str(tmp_path))))


def test_tensorboard_on_other_storage(tmp_path: Path) -> None:
    """A URI, as of a bucket: the file is written whole."""
    attempts(TensorBoard, f"file://{tmp_path}/run")
    check(tensorboard_curves(Storage.at(f"{tmp_path}/run")))


def test_a_cut_off_event_file_is_continued_in_another(tmp_path: Path) -> None:
    one = TensorBoard()
    one.start(info(tmp_path, 1))
    one.log_steps("train", steps(0, 5.0, 4.0), 1)
    one.end("stopped")
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-70])  # cuts the last record and a part of the one before
    again = TensorBoard()
    again.start(info(tmp_path, 2, earlier_steps=[("train", line, 1) for line in steps(0, 5.0, 4.0)]))
    again.end("completed")
    assert dict(again._last)["train/loss"] == 1


def test_what_is_no_number_makes_no_point() -> None:
    numbers = {"gain": 0.5, "control": "sft", "gain_low": None, "paid": True}
    assert [point.name for point in points_of("control_gain", numbers, 1)] == ["gain/gain"]


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_a_missing_package_is_refused_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=rf"trackers: {name} needs the package {name}.*'tapir-ray\[{name}\]'"):
        background.users_trackers(parse({**CONFIG, "trackers": [name]}))


def test_a_run_has_tensorboard_unless_it_is_turned_off() -> None:
    assert parse(CONFIG).trackers == ["tensorboard"] and background.users_trackers(parse(CONFIG))
    assert not background.users_trackers(parse({**CONFIG, "trackers": []}))


@pytest.mark.slow
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    from tapir_ray.run.trackers.mlflow import MLflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    attempts(MLflow, tmp_path / "run")
    client = MlflowClient()
    (experiment,) = [one for one in client.search_experiments() if one.name == "tapir"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.data.params["train.epochs"] == "2"
    names = found.data.metrics
    check({n: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, n)] for n in names})


@pytest.mark.slow
def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from tapir_ray.run.trackers.wandb import Wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    attempts(Wandb, tmp_path)
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    folders = sorted((tmp_path / "wandb").glob("offline-run-*-mine-1a2b-3c4d"), key=lambda one: one.stat().st_mtime)
    assert len(folders) == 2, "one for each attempt, with the id of the run"
    for folder in folders:
        for line in wandb_lines(next(folder.glob("*.wandb"))):
            for name, value in line.items():
                if not name.startswith("_") and not name.endswith("/step"):
                    found[name].append((int(line[f"{name.partition('/')[0]}/step"]), value))
    lost = found.pop("train/loss")
    assert lost == [(0, 5.0), (1, 4.0), (3, 2.0)], "offline, wandb cannot say that a step is missing"
    check({**found, "train/loss": [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0)]})


def wandb_lines(file: Path) -> list[dict[str, Any]]:
    """Reads the lines of a `.wandb` file: records of LevelDB's log format, after 7 bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, part, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            record, part = Record.FromString(part), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


@pytest.mark.slow
def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if "trackio" not in sys.modules:
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="the extra trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    from tapir_ray.run.trackers.trackio import Trackio

    attempts(Trackio, tmp_path / "run")
    assert sqlite3.connect(SQLiteStorage.get_project_db_path("tapir")).execute("select 1").fetchone() == (1,)
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in SQLiteStorage.get_logs("tapir", "mine-1a2b-3c4d"):
        for name in line:
            if "/" in name:
                found[name].append((line["step"], line[name]))
    check({name: sorted(points) for name, points in found.items()})
    assert capsys.readouterr().out == ""
