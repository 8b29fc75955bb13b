"""A run on storage: a table exists if its manifest does, and a folder belongs to one config."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pytest
import ray.data

from tapir_ray.config import Config, parse
from tapir_ray.errors import InputError, StageError, Stopped
from tapir_ray.run import row_counter
from tapir_ray.run.attempts import owned
from tapir_ray.run.run import Run

SCHEMA = pa.schema([("instruction_id", pa.string()), ("status", pa.string()), ("reason", pa.string())])


SCHEMA_OF_STATUS = pa.schema([("status", pa.string()), ("reason", pa.string())])


def config(**changes: object) -> Config:
    return parse({"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}, **changes})


def table(rows: int) -> pa.Table:
    reasons = ["empty: x" if n % 4 == 1 else "timeout: y" if n % 4 == 2 else None for n in range(rows)]
    statuses = ["filtered" if n % 4 == 1 else "failed" if n % 4 == 2 else "ok" for n in range(rows)]
    return pa.table({"instruction_id": [str(n) for n in range(rows)], "status": statuses, "reason": reasons})


def test_a_table_is_counted_and_read_back(tmp_path: Path, ray_local: None) -> None:
    run = Run.open(config(), str(tmp_path / "run"))
    manifest = run.write("seed/t", ray.data.from_arrow(table(40)), SCHEMA, expected=40)
    assert manifest.statuses == {"ok": 20, "filtered": 10, "failed": 10}
    assert (manifest.reasons, manifest.errors) == ({"empty": 10}, {"timeout": 10})
    assert run.done("seed/t") == manifest
    assert run.read("seed/t").count() == 40
    (first,) = run.events("first_rows")
    assert first["table"] == "seed/t" and 0 < first["seconds"] <= manifest.seconds + 0.01
    with pytest.raises(StageError, match="41 rows went in and 40 came out"):
        run.write("seed/u", ray.data.from_arrow(table(40)), SCHEMA, expected=41)
    assert run.done("seed/u") is None


def test_reasons_are_counted_by_the_word_before_the_colon(tmp_path: Path) -> None:
    run = Run.open(config(), str(tmp_path / "run"))
    reasons = [
        "duplicate: a",
        "duplicate: b",
        "duplicate",
        None,
        "",
        "two\nlines: x",
        "TimeoutError: one",
        "TimeoutError",
    ]
    statuses = ["filtered"] * 6 + ["failed", "failed"]
    rows = pa.table({"status": [*statuses, "ok", None], "reason": [*reasons, None, "odd: x"]}, schema=SCHEMA_OF_STATUS)
    manifest = run.write_rows("t", rows)
    assert manifest.statuses == {"filtered": 6, "failed": 2, "ok": 1, None: 1}
    assert manifest.reasons == {"duplicate": 3, "unknown": 2, "two\nlines": 1}
    assert manifest.errors == {"TimeoutError": 2}


def test_a_table_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    run = Run.open(config(), str(tmp_path / "run"))
    run.write_rows("t", table(4))
    (tmp_path / "run/t/_manifest.json").unlink()
    assert run.done("t") is None
    with pytest.raises(StageError, match="not finished"):
        run.files("t")
    run.write_rows("t", table(8))
    assert run.manifest("t").rows == 8


def test_the_same_config_continues_a_run_and_another_is_refused(tmp_path: Path) -> None:
    first = Run.open(config(), str(tmp_path / "run"))
    again = Run.open(config(resources={"cpus": 3}), str(tmp_path / "run"))
    assert first.run_id == again.run_id
    first.write_rows("seed/read", table(4))
    with pytest.raises(InputError, match=r"curriculum.alpha: 0.3 → 0.5"):
        Run.open(config(curriculum={"alpha": 0.5}), str(tmp_path / "run"))


def test_a_run_without_a_table_accepts_a_corrected_config(tmp_path: Path) -> None:
    run = Run.open(config(), str(tmp_path / "run"))
    run.write_text("attempts/00001.json", "{}")
    run.write_text("attempts/00001.ended.json", "{}")
    run.write_text("seed_data.jsonl", "{}")
    run.write_text("usage/00001.json", "{}")
    run.write_text("notes.txt", "mine")
    again = Run.open(config(seed_data={"path": "b.jsonl"}), str(tmp_path / "run"))
    assert "b.jsonl" in again.read_text("config.yaml")
    assert not again.exists("seed_data.jsonl")
    assert again.exists("usage/00001.json") and again.exists("notes.txt")


def test_a_folder_with_a_config_but_no_run_is_left_unchanged(tmp_path: Path) -> None:
    """A user's folder may hold the config, seed data and notes of an experiment."""
    (tmp_path / "config.yaml").write_text(config().dump())
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed/mine.jsonl").write_text("{}")
    for other in (config(), config(seed_data={"path": "b.jsonl"})):
        with pytest.raises(InputError, match="has no run that was started"):
            Run.open(other, str(tmp_path))
    assert (tmp_path / "seed/mine.jsonl").exists()
    assert (tmp_path / "config.yaml").read_text() == config().dump()


def test_the_config_of_the_last_start_is_stored(tmp_path: Path) -> None:
    """A retry continues with the budget of the run's last start."""
    Run.open(config(), str(tmp_path)).event("begun")
    Run.open(config(budget={"max_tokens": 7}), str(tmp_path))
    assert Run.at(str(tmp_path)).stored_config().budget.max_tokens == 7


@pytest.mark.parametrize("place", ["file.txt", "foo://x"])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(InputError, match=place):
        Run.open(config(), place if ":" in place else str(tmp_path / place))


def test_a_foreign_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with pytest.raises(InputError, match="not the config of a run"):
        Run.open(config(), str(tmp_path))


def test_two_runs_of_one_config_have_two_names(tmp_path: Path) -> None:
    names = {Run.open(config(), str(tmp_path / folder)).run_id for folder in ("a", "b", "a")}
    assert len(names) == 2


def test_a_folder_of_other_files_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="has no run"):
        Run.open(config(), str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_events_of_all_attempts_are_kept(tmp_path: Path) -> None:
    for _ in range(2):
        run = Run.open(config(), str(tmp_path / "run"))
        with owned(run) as run.attempt:
            run.event("stage", stage="score", round=1)
    assert [event["attempt"] for event in run.events("stage")] == [1, 2]


@pytest.mark.slow
def test_an_exhausted_budget_ends_a_pipeline_early(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local student would otherwise answer thousands of rows that nobody judges. Rows in flight are kept."""
    monkeypatch.setattr(row_counter, "DRAIN_S", 1.0)
    asked = {str(number) for number in range(5)}

    def slow(row: dict[str, str]) -> dict[str, str | None]:
        time.sleep(0.1)
        ok = row["instruction_id"] in asked
        return {**row, "status": "ok" if ok else "failed", "reason": None if ok else "budget_used_up"}

    run = Run.open(config(), str(tmp_path / "run"))
    rows = ray.data.from_items([{"instruction_id": str(number)} for number in range(1000)], override_num_blocks=100)
    started, polls = time.monotonic(), iter([False] * 3)
    with pytest.raises(Stopped, match="budget"):
        run.write(
            "t",
            rows.map(slow, num_cpus=1, concurrency=1),
            SCHEMA,
            key=("instruction_id",),
            rows_per_block=10,
            expected=1000,
            drained=lambda: next(polls, True),
        )
    assert time.monotonic() - started < 60, "the rows alone would take 100 s"
    assert run.remaining("t", rows, ("instruction_id",)).count() == 995
