"""Tables written block by block: finished rows stay, each of them once, however often work is repeated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
from hypothesis import given
from hypothesis import strategies as st
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from tapir_ray.config import parse
from tapir_ray.errors import StageError, Stopped
from tapir_ray.run import blocks
from tapir_ray.run.answer_log import AnswerLog
from tapir_ray.run.layout import Table
from tapir_ray.run.resume import _resume, among, resume_table
from tapir_ray.run.run import Run

SCHEMA = pa.schema([("instruction_id", pa.string()), ("status", pa.string()), ("reason", pa.string())])
KEY = ("instruction_id",)
LOCAL = pafs.LocalFileSystem()


def rows(ids: range, status: str = "ok", reason: str | None = None) -> pa.Table:
    return pa.table(
        {"instruction_id": [str(n) for n in ids], "status": [status] * len(ids), "reason": [reason] * len(ids)}, SCHEMA
    )


def run_in(folder: Path) -> Run:
    return Run.open(parse({"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}}), str(folder))


def ids_in(folder: Path) -> list[str]:
    files = [path for path in folder.glob("*.parquet")]
    return sorted(value for file in files for value in pq.read_table(file)["instruction_id"].to_pylist())


@given(st.lists(st.text(), unique=True, min_size=1), st.randoms())
def test_a_block_has_the_same_name_for_any_order_of_rows(ids: list[str], random: object) -> None:
    shuffled = sorted(ids, key=lambda _: random.random())  # type: ignore[attr-defined]
    one, other = (pa.table({"instruction_id": pa.array(order, pa.string())}) for order in (ids, shuffled))
    assert blocks.name_of(one, KEY) == blocks.name_of(other, KEY)


@given(st.lists(st.text(), unique=True, min_size=2))
def test_blocks_of_other_rows_have_other_names(ids: list[str]) -> None:
    tables = [pa.table({"instruction_id": pa.array(some, pa.string())}) for some in (ids, ids[1:])]
    assert blocks.name_of(tables[0], KEY) != blocks.name_of(tables[1], KEY)


def test_a_repeated_task_replaces_its_block(tmp_path: Path) -> None:
    for _ in range(2):
        blocks.write_block(rows(range(5)), str(tmp_path), LOCAL, KEY)
    assert ids_in(tmp_path) == [str(n) for n in range(5)]
    assert not list(tmp_path.glob(f"{blocks.UNFINISHED}*"))


def test_a_continued_table_keeps_finished_rows_and_asks_failed_ones_again(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    folder = Path(run.path("t"))
    folder.mkdir(parents=True)
    blocks.write_block(pa.concat_tables([rows(range(6)), rows(range(6, 8), "failed", "x")]), str(folder), LOCAL, KEY)
    blocks.write_block(rows(range(8, 10), "filtered", "empty"), str(folder), LOCAL, KEY)
    (folder / f"{blocks.UNFINISHED}abc").write_bytes(b"half a fi")
    asked = run.remaining("t", ray.data.from_arrow(rows(range(20))), KEY)
    assert sorted(int(row["instruction_id"]) for row in asked.take_all()) == [6, 7, *range(10, 20)]
    manifest = run.write("t", asked, SCHEMA, key=KEY, rows_per_block=4, expected=20)
    assert manifest.statuses == {"ok": 18, "filtered": 2}
    assert ids_in(folder) == sorted(str(n) for n in range(20)), "no other file is in the folder"


def test_several_files_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On object storage each file costs some round trips, and a shard of a million rows has thousands of files."""
    for n in range(16):
        blocks.write_block(rows(range(n * 10, n * 10 + 10)), str(tmp_path), LOCAL, KEY)
    four_at_once, opened = threading.Barrier(4), pq.ParquetFile

    def slow(path: str, filesystem: pafs.FileSystem) -> pq.ParquetFile:
        four_at_once.wait(timeout=20)
        return opened(path, filesystem=filesystem)

    monkeypatch.setattr(pq, "ParquetFile", slow)
    count, keys = _resume(str(tmp_path), LOCAL, KEY)
    assert count == 160 and set(keys.to_pylist()) == {str(n) for n in range(160)}


def test_a_rewritten_block_may_take_the_name_of_a_removed_one(tmp_path: Path) -> None:
    """Several files are rewritten at once; none deletes the result of another."""
    for first in range(0, 300, 3):  # Files are named by hashes: with 100 pairs, both orders of their names occur.
        one, two, three = (range(n, n + 1) for n in range(first, first + 3))
        for ok, failed in (((one,), two), ((one, two), three)):
            block = pa.concat_tables([*map(rows, ok), rows(failed, "failed", "x")])
            blocks.write_block(block, str(tmp_path), LOCAL, KEY)
    count, keys = _resume(str(tmp_path), LOCAL, KEY)
    there = sorted(str(n) for n in range(300) if n % 3 != 2)
    assert count == 200 and sorted(keys.to_pylist()) == there and ids_in(tmp_path) == there


def test_rows_written_by_two_attempts_are_kept_once(tmp_path: Path, ray_local: None) -> None:
    for some in (range(6), range(4, 10)):
        blocks.write_block(rows(some), str(tmp_path), LOCAL, KEY)
    files = blocks.compact(str(tmp_path), LOCAL, KEY)
    blocks.tidy(str(tmp_path), LOCAL, files)
    assert ids_in(tmp_path) == [str(n) for n in range(10)]


def test_many_small_files_are_merged_into_few(tmp_path: Path, ray_local: None) -> None:
    for n in range(50):
        blocks.write_block(rows(range(n * 100, n * 100 + 100)), str(tmp_path), LOCAL, KEY)
    files = blocks.compact(str(tmp_path), LOCAL, KEY)
    blocks.tidy(str(tmp_path), LOCAL, files)
    assert len(files) == 3
    assert len(set(ids_in(tmp_path))) == 5000


def test_unasked_rows_are_never_written(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    some = pa.concat_tables([rows(range(5)), rows(range(5, 9), "failed", "budget_used_up")])
    with pytest.raises(Stopped, match="budget"):
        run.write("t", ray.data.from_arrow(some), SCHEMA, key=KEY, expected=9)
    assert run.done("t") is None
    assert ids_in(Path(run.path("t"))) == [str(n) for n in range(5)]


def test_too_many_errors_end_a_stage_early(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    blocks = [rows(range(n * 20, n * 20 + 20), "failed", "KeyError: 'x'") for n in range(50)]
    with pytest.raises(StageError, match=r"of 1000 rows failed.*KeyError: 'x'"):
        run.write("t", ray.data.from_arrow(blocks), SCHEMA, key=KEY, expected=1000, max_error_rate=0.05)
    assert run.done("t") is None


def pipelines() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, StreamingExecutor)]


def slowly(block: pa.Table) -> pa.Table:
    time.sleep(0.5)
    return block


def test_a_stage_that_fails_leaves_no_pipeline_open(tmp_path: Path, ray_local: None) -> None:
    """An open pipeline would continue, and start Ray again when the process ends."""
    run = run_in(tmp_path / "run")
    blocks = [rows(range(n * 20, n * 20 + 20), "failed", "KeyError: 'x'") for n in range(200)]
    slow = ray.data.from_arrow(blocks).map_batches(slowly, batch_format="pyarrow", batch_size=None, num_cpus=1)
    with pytest.raises(StageError) as error:
        run.write("t", slow, SCHEMA, key=KEY, expected=4000, max_error_rate=0.005)
    for pipeline in pipelines():
        pipeline.join(timeout=5)
    assert error.tb and not pipelines(), "the frames of the error still exist, the pipeline does not"


def test_answers_inside_a_pipeline_are_not_generated_again(tmp_path: Path, ray_local: None) -> None:
    """The run is killed while its judge is behind.

    The student's answers are stored, and judged ones are not judged again.
    """
    run = run_in(tmp_path / "run")
    made, judged = tmp_path / "made", tmp_path / "judged"

    def answer(block: pa.Table, keep: Callable[[], AnswerLog]) -> pa.Table:
        with made.open("a") as file:
            file.writelines(f"{row_id}\n" for row_id in block["instruction_id"].to_pylist())
        keep().write(block.to_pylist())
        return block

    def judge(block: pa.Table, most: int) -> pa.Table:
        with judged.open("a+") as file:
            file.seek(0)
            if len(file.readlines()) >= most:
                raise ValueError("killed")
            file.writelines(f"{row_id}\n" for row_id in block["instruction_id"].to_pylist())
        return block

    def start(most: int) -> None:
        everything = ray.data.from_arrow([rows(range(n * 10, n * 10 + 10)) for n in range(10)])
        left = run.remaining("t", everything, KEY)
        options = {"batch_format": "pyarrow", "batch_size": None, "num_cpus": 0.1}

        def engine(some: ray.data.Dataset, keep: Callable[[], AnswerLog]) -> ray.data.Dataset:
            return some.map_batches(answer, fn_args=[keep], **options)

        answered = run.answers(Table("t", SCHEMA, KEY), left, engine, 100, 10)
        run.write("t", answered.map_batches(judge, fn_args=[most], **options), SCHEMA, key=KEY, expected=100)

    with pytest.raises(ray.exceptions.RayTaskError, match="killed"):
        start(30)
    kept, first = ids_in(tmp_path / "run/t/answers"), made.read_text().splitlines()
    assert len(kept) >= 30 and set(kept) <= set(first)
    start(1000)  # not killed: rows that were judged and not yet written are judged again, and count twice
    again = made.read_text().splitlines()[len(first) :]
    assert not set(again) & set(kept) and set(again) | set(kept) == {str(n) for n in range(100)}
    assert run.manifest("t").rows == 100
    assert ids_in(tmp_path / "run/t") == sorted(str(n) for n in range(100))
    run.forget_answers("t")
    assert not (tmp_path / "run/t/answers").exists()


def test_a_table_with_all_its_answers_starts_no_engine(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    folder = tmp_path / "run/t/answers"
    folder.mkdir(parents=True)
    blocks.write_block(rows(range(20)), str(folder), LOCAL, KEY)
    blocks.write_block(rows(range(5)), run.path("t"), LOCAL, KEY)
    left = run.remaining("t", ray.data.from_arrow(rows(range(20))), KEY)

    def engine(*_: object) -> ray.data.Dataset:
        raise AssertionError("an engine was started")

    answered = run.answers(Table("t", SCHEMA, KEY), left, engine, 20, 10)
    assert run.write("t", answered, SCHEMA, key=KEY, expected=20).rows == 20


def write_rows(folder: Path, status: str, *ids: int) -> None:
    found = [{"instruction_id": str(n), "status": status, "reason": None} for n in ids]
    blocks.write_block(pa.Table.from_pylist(found, SCHEMA), str(folder), LOCAL, KEY)


def test_duplicates_are_removed_also_after_an_interrupted_removal(tmp_path: Path, ray_local: None) -> None:
    """The file without the duplicate exists, and so does the file that it replaces."""
    for first in range(0, 120, 3):  # Files are named by hashes: with 40 triples, all orders of their names occur.
        one, two, three = range(first, first + 3)
        for ids in ((one, two), (one, two, three), (three,)):
            write_rows(tmp_path, "ok", *ids)
    for _ in range(2):
        count, _ = resume_table(str(tmp_path), LOCAL, KEY)
        assert count == 120 and ids_in(tmp_path) == sorted(str(n) for n in range(120))


def test_an_answer_wins_over_a_failure_of_the_same_row(tmp_path: Path, ray_local: None) -> None:
    """An overtaken attempt may still write the rows that it could not ask."""
    for n in range(40):
        write_rows(tmp_path, "ok", n)
        write_rows(tmp_path, "failed", n, n + 100)
    files = blocks.compact(str(tmp_path), LOCAL, KEY)
    table = pa.concat_tables(pq.read_table(tmp_path / file) for file in files)
    found = {int(row["instruction_id"]): row["status"] for row in table.to_pylist()}
    assert len(table) == 80 and found == {n: "ok" if n < 100 else "failed" for n in [*range(40), *range(100, 140)]}


@given(st.lists(st.text("abc", max_size=3), max_size=8), st.lists(st.text("abc", max_size=3), min_size=1, max_size=8))
def test_keys_are_found_by_search(values: list[str], keys: list[str]) -> None:
    found = among(pa.chunked_array([pa.array(values, pa.string())]), pa.array(sorted(set(keys))))
    assert found.to_pylist() == [value in keys for value in values]
