"""A full disk stops a run with exit status 1 and one sentence; with free space the same command continues."""

from __future__ import annotations

import argparse
import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import ray.data

from tapir_ray.cli import ended
from tapir_ray.config import parse
from tapir_ray.data import atomic_files
from tapir_ray.errors import InputError, StageError, full_disk, own_error
from tapir_ray.run.attempts import owned, owner
from tapir_ray.run.run import Run
from tests.run.test_torn import KEY, SCHEMA, rows

CONFIG = parse({"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path) -> Path:
    """Fills the disk with a file of another program; returns its path."""
    path = disk / "of-others"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return path


def status_of(work: Callable[[], object]) -> int:
    """Returns the exit status of a command that calls `work`."""

    def verb(_: argparse.Namespace) -> int:
        work()
        return 0

    return ended(verb, argparse.Namespace())


def test_a_run_on_a_full_disk_ends_with_one_sentence_and_continues_later(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(CONFIG, str(disk / "run"))

    def work() -> None:
        with owned(run) as run.attempt:
            for number in range(3):
                if not run.done(f"seed/{number}"):
                    run.write_rows(f"seed/{number}", rows(range(200)))
                if number == 1:
                    others.append(fill(disk))

    others: list[Path] = []
    assert status_of(work) == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith("tapir: no space is left in ") and "start the same command again to continue" in sentence
    assert f"{disk}/run/" in sentence and sentence.count("\n") == 1, sentence
    before = {number: run.done(f"seed/{number}") for number in range(2)}
    assert None not in before.values(), "finished tables stay"
    assert all(event["event"] for event in run.all_events())
    assert not list(disk.rglob(f"{atomic_files.WRITING}*")), "no partial file takes up space"
    last = owner(run)
    assert last is not None and not last.alive and last.exit_status == 1, (
        "the record of the end reuses the space of the heartbeat"
    )
    others[0].unlink()
    run = Run.open(CONFIG, str(disk / "run"))
    with owned(run) as run.attempt:
        run.write_rows("seed/2", rows(range(200)))
    assert [run.done(f"seed/{number}") for number in range(2)] == list(before.values())
    assert run.manifest("seed/2").rows == 200


def test_a_start_on_a_full_disk_is_no_input_error(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled = fill(disk)
    assert status_of(lambda: Run.open(CONFIG, str(disk / "run"))) == 1
    assert "no space is left in" in capsys.readouterr().err
    filled.unlink()
    assert Run.open(CONFIG, str(disk / "run")).exists("config.yaml")


def test_a_full_disk_of_a_worker_is_named_and_its_rows_are_kept(disk: Path, ray_local: None) -> None:
    """Ray Data wraps the error in one of its own."""
    run = Run.open(CONFIG, str(disk / "run"))
    schema = pa.schema([*SCHEMA, ("text", pa.string())])

    def widen(block: pa.Table) -> pa.Table:
        import os

        # Random text, since Parquet would compress other text.
        return block.append_column("text", pa.array([os.urandom(15_000).hex() for _ in range(len(block))]))

    table = ray.data.from_arrow([rows(range(n * 10, n * 10 + 10)) for n in range(6)])
    with pytest.raises(Exception) as error:
        run.write("t", table.map_batches(widen, batch_format="pyarrow"), schema, key=KEY, rows_per_block=10)
    own = own_error(error.value)
    assert isinstance(own, StageError) and f"no space is left in {disk}/run/t:" in str(own), own
    assert not list(disk.rglob(f"{atomic_files.WRITING}*")) and run.done("t") is None
    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    left = run.remaining("t", table, KEY)
    assert run.kept("t") > 0
    run.write("t", left.map_batches(widen, batch_format="pyarrow"), schema, key=KEY, rows_per_block=10, expected=60)
    assert run.manifest("t").rows == 60


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b/c.json"), "no space is left in /a/b:"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/a/b/c.json"), "the quota is used up in /a/b:"),
        (OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device"), "TMPDIR"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "TMPDIR"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "no space is left"),
        (ValueError("OSError: [Errno 28] No space left on device: '/x/y/z'\nat z"), "no space is left in /x/y:"),
        (OSError("When uploading part for key 'a': AWS Error XMinioStorageFull during UploadPart"), "no space is left"),
    ],
)
def test_a_full_disk_is_recognised_in_the_errors_of_all_libraries(error: Exception, sentence: str) -> None:
    outer = RuntimeError("a task failed")
    outer.__cause__ = error
    for met in (error, outer):
        own = own_error(met)
        assert isinstance(own, StageError) and own.exit_status == 1 and sentence in str(own)


def test_other_errors_do_not_count_as_a_full_disk() -> None:
    own = InputError("x: No space left on device")
    assert full_disk(OSError(errno.EACCES, "Permission denied", "/a")) is None
    assert own_error(own) is own and own_error(ValueError("28")) is None


def test_a_disk_found_full_at_the_flush_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network filesystems write late."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = str(tmp_path / "a.json")
    atomic_files.write_bytes(pafs.LocalFileSystem(), path, b"old")
    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(OSError) as error:
        atomic_files.write_bytes(pafs.LocalFileSystem(), path, b"new")
    assert error.value.filename == path and Path(path).read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
