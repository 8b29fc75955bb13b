"""Files are whole or absent: torn ones are skipped with a warning, and a removed table stays removed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from tapir_ray.config import parse
from tapir_ray.curriculum.actor import StateFiles
from tapir_ray.data import atomic_files
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError, StageError, own_error
from tapir_ray.llm.budget.files import UsageFiles
from tapir_ray.run import attempts, blocks, table_removal
from tapir_ray.run.answer_log import AnswerLog
from tapir_ray.run.attempts import claim, owner
from tapir_ray.run.resume import _resume, _resume_and_tell
from tapir_ray.run.run import Run
from tapir_ray.train.checkpoint import PROGRESS_FILE, SNAPSHOT, forget_torn

LOCAL = pafs.LocalFileSystem()
KEY = ("instruction_id",)
SCHEMA = pa.schema([("instruction_id", pa.string()), ("status", pa.string()), ("reason", pa.string())])
TORN = ["", "{", '{"beat": 1, "ti', "\0\0\0\0", "null", "[1]"]
CONFIG = parse({"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}})


def rows(ids: range) -> pa.Table:
    return pa.Table.from_pylist([{"instruction_id": str(n), "status": "ok", "reason": None} for n in ids], SCHEMA)


@pytest.mark.parametrize("content", TORN)
def test_a_torn_file_of_a_run_counts_as_absent_and_is_named(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run.open(CONFIG, str(tmp_path))
    names = ["attempts/00001.json", "attempts/00001.beat.json", "attempts/00001.ended.json", "seed/t/_manifest.json"]
    for name in (*names, "usage/00001.json", "summary.json"):
        run.write_text(name, content)
    last = owner_at_once(run)
    assert last is not None and (last.attempt, last.alive, last.host) == (1, False, "?")
    assert run.done("seed/t") is None and UsageFiles(run.uri, 2).load() == (None, [])
    assert run.find_json("summary.json") is None
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for name in names:
        assert any(f"/{name} is empty or torn and is treated as absent" in line for line in warnings), name
    assert any("usage/00001.json" in line and "does not count towards the budget" in line for line in warnings)
    assert len(warnings) == len(set(warnings)), "each warning once"
    assert claim_at_once(run) == 2, "a number is not used twice"


def owner_at_once(run: Run) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "PATIENCE_S", 0.0)
        return owner(run)


def claim_at_once(run: Run) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "PATIENCE_S", 0.0)
        return claim(run)


def test_a_record_without_its_fields_counts_as_torn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "usage").mkdir()
    (tmp_path / "usage" / "00001.json").write_text("{}")
    assert UsageFiles(str(tmp_path), 2).load() == (None, [])
    assert "00001.json is empty or torn" in caplog.text and "does not count towards the budget" in caplog.text


def test_a_torn_config_is_an_error_that_names_the_change(tmp_path: Path) -> None:
    Run.open(CONFIG, str(tmp_path))
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(InputError, match="restore the config that the run was started with"):
        Run.open(CONFIG, str(tmp_path))


def test_the_last_whole_state_is_read_and_none_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = StateFiles(str(tmp_path))
    states.write(1, {"n": 1})
    (tmp_path / "state/00001-000001.json").write_text('{"n"')
    (tmp_path / "state/notes.json").write_text("{}")
    assert states.latest() == {"n": 1} and "skipped" in caplog.text
    (tmp_path / "state/00001-000000.json").write_text("")
    with pytest.raises(StageError, match="none of its 2 objects can be read"):
        states.latest()


def test_a_truncated_line_affects_no_other_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run.open(CONFIG, str(tmp_path))
    run.event("first")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "sec')
    run.event("third")
    assert [event["event"] for event in run.all_events()] == ["first", "third"]
    assert "events.jsonl is empty or torn and has unreadable lines, which are left out" in caplog.text


def test_torn_blocks_are_removed_named_and_made_again(tmp_path: Path) -> None:
    for n in range(4):
        blocks.write_block(rows(range(n * 10, n * 10 + 10)), str(tmp_path), LOCAL, KEY)
    first, second, third, _ = sorted(tmp_path.glob("block-*"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-20])
    third.write_bytes(third.read_bytes()[:-12] + b"\x05\0\0\0PAR1")
    assert blocks.files_of(str(tmp_path), LOCAL, KEY).keys() == set(_ids(sorted(tmp_path.glob("block-*"))[3]))
    count, keys, torn = _resume_and_tell(str(tmp_path), LOCAL, KEY)
    assert count == len(keys) == 10 and sorted(torn) == sorted(file.name for file in (first, second, third))
    assert len(list(tmp_path.iterdir())) == 1
    assert AnswerLog(str(tmp_path), LOCAL, SCHEMA, KEY, 2).found({"instruction_id": "x"}) is None


def _ids(file: Path) -> list[str]:
    return [str(name) for name in pq.read_table(file)["instruction_id"].to_pylist()]


def test_a_table_without_its_manifest_keeps_its_rows(tmp_path: Path) -> None:
    """Its blocks were removed when the table was finished."""
    blocks.write_whole(rows(range(30)), "rows-000000.parquet", str(tmp_path), LOCAL)
    (tmp_path / "rows-000001.parquet").write_bytes(b"PAR1")
    count, _, torn = _resume_and_tell(str(tmp_path), LOCAL, KEY)
    assert (count, torn) == (30, ["rows-000001.parquet"])
    assert [file.name[:6] for file in tmp_path.iterdir()] == ["block-"]


def test_a_torn_file_of_a_finished_table_is_named_in_one_sentence(tmp_path: Path) -> None:
    run = Run.open(CONFIG, str(tmp_path))
    run.write_rows("seed/t", rows(range(3)))
    (tmp_path / "seed/t/rows-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(pa.ArrowInvalid) as error:
        list(run.scan("seed/t", ["status"]))
    own = own_error(error.value)
    assert isinstance(own, StageError) and "seed/t/rows-000000.parquet is empty or torn: remove" in str(own)


def test_two_writers_of_a_file_share_no_temporary_name(tmp_path: Path) -> None:
    storage, together = Storage.at(str(tmp_path)), threading.Barrier(4)

    def write(letter: str) -> None:
        together.wait()
        for _ in range(20):
            storage.write_text("a.json", letter * 200_000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert len(set(storage.read_text("a.json"))) == 1 and os.listdir(tmp_path) == ["a.json"]


def test_a_file_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def noted_replace(source: str, target: str) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(atomic_files.os, "fsync", noted_sync)
    monkeypatch.setattr(atomic_files.os, "replace", noted_replace)
    Storage.at(str(tmp_path)).write_json("a.json", {})
    blocks.write_whole(rows(range(3)), "block-x.parquet", str(tmp_path), LOCAL)
    assert done == ["file", "rename", "folder"] * 2


def test_files_of_killed_writers_are_ignored_and_removed(tmp_path: Path) -> None:
    run = Run.open(CONFIG, str(tmp_path))
    for name in ("attempts", "seed/t", ""):
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for letter in "ab":
            (folder / f"{atomic_files.WRITING}{letter}").write_text("half")
        os.utime(folder / f"{atomic_files.WRITING}a", (1.0, 1.0))
    assert not any(name.startswith(".") for name in run.children("")) and run.children("seed/t") == []
    assert claim(run) == 1
    left = sorted(path.name for path in tmp_path.rglob(f"{atomic_files.WRITING}*"))
    assert left == [f"{atomic_files.WRITING}b"] * 3, "their writers may be alive"


class Dies(Exception):
    """The death of a process."""


@pytest.mark.parametrize("deletes", range(12))
def test_an_interrupted_removal_leaves_a_whole_table_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deletes: int
) -> None:
    """Its rows have another input than those of the table that follows, which must contain none of them."""
    run = Run.open(CONFIG, str(tmp_path / "run"))
    run.fs.create_dir(run.path("seed/t/answers"), recursive=True)
    for n in range(3):
        blocks.write_block(rows(range(n, n + 1)), run.path("seed/t"), LOCAL, KEY)
        blocks.write_block(rows(range(n, n + 1)), run.path("seed/t/answers"), LOCAL, KEY)
    run.publish("seed/t")
    done: list[str] = []

    class Disk:
        """A filesystem whose process dies after `deletes` files are deleted."""

        def __getattr__(self, name: str) -> Callable[..., object]:
            return getattr(LOCAL, name)  # type: ignore[no-any-return]

        def delete_file(self, path: str) -> None:
            if len(done) >= deletes:
                raise Dies
            done.append(path)
            LOCAL.delete_file(path)

        def delete_dir(self, path: str) -> None:
            if len(done) >= deletes:
                raise Dies
            LOCAL.delete_dir(path)

    monkeypatch.setattr(table_removal, "FILES_AT_ONCE", 1)
    monkeypatch.setattr(
        table_removal.atomic_files, "write_bytes", lambda fs, path, content: atomic_write(LOCAL, path, content)
    )
    with suppress(Dies):
        table_removal.remove(Disk(), run.path("seed/t"))  # type: ignore[arg-type]
    assert not done or done[0].endswith("_manifest.json")
    if run.done("seed/t") is not None:
        assert not done and run.manifest("seed/t").rows == 3
    else:
        assert _resume(run.path("seed/t"), LOCAL, KEY)[0] == 0 and not run.children("seed/t")


atomic_write = atomic_files.write_bytes


def test_a_training_with_torn_records_starts_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listed = '{"latest_checkpoint_result": {"checkpoint_dir_name": "checkpoint_1"}}'
    for snapshot, progress, stays in ((listed, "{}x", False), (listed, '{"losses": [1.0]}', True), ("", "", False)):
        folder = tmp_path / "training"
        (folder / "checkpoint_1").mkdir(parents=True, exist_ok=True)
        (folder / SNAPSHOT).write_text(snapshot)
        (folder / "checkpoint_1" / PROGRESS_FILE).write_text(progress)
        forget_torn(LOCAL, str(folder), "train_result.json")
        assert folder.exists() == stays
    forget_torn(LOCAL, str(tmp_path / "none"), "train_result.json")
    assert "starts from its first step" in caplog.text
