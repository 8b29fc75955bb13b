"""One pipeline writes the tables of many shards: each is published once it is whole, with all its rows once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import ray
import ray.data

from tapir_ray.config import parse
from tapir_ray.errors import StageError, Stopped
from tapir_ray.run import blocks as run_blocks
from tapir_ray.run.layout import Table
from tapir_ray.run.manifest import Manifest
from tapir_ray.run.run import Run
from tapir_ray.run.sharded_tables import SHARD, ShardedTables, write_each
from tests.run.test_blocks import pipelines, slowly

SCHEMA = pa.schema([("instruction_id", pa.string()), ("status", pa.string()), ("reason", pa.string())])
KEY = ("instruction_id",)
MADE = Table("shards/*/made", SCHEMA, KEY)
LOCAL = pafs.LocalFileSystem()
UNASKED = ("failed", "budget_used_up")
COUNTS = {f"shards/{n:05d}": 40 for n in range(3)}


def rows(shard: str, ids: range, status: str = "ok", reason: str | None = None) -> pa.Table:
    found = [{"instruction_id": f"{shard}-{n}", "status": status, "reason": reason, "shard": shard} for n in ids]
    return pa.Table.from_pylist(found, pa.schema([*SCHEMA, SHARD]))


def everything() -> list[pa.Table]:
    return [rows(shard, range(at, at + 10)) for shard in COUNTS for at in range(0, 40, 10)]


def run_in(folder: Path) -> Run:
    return Run.open(
        parse({"name": "x", "seed_data": {"path": "a"}, "regenerate": {"operations": ["filter"]}}), str(folder)
    )


def write(run: Run, blocks: list[pa.Table]) -> ShardedTables:
    tables = ShardedTables(run, MADE, COUNTS)
    left = tables.remaining(ray.data.from_arrow(blocks), 0.1)
    tables.write(left, rows_per_block=7, transform_cpus=0.1, max_error_rate=0.1, drained=lambda: True)
    return tables


def ids_in(run: Run, shard: str) -> list[str]:
    return [value for file in run.files(f"{shard}/made") for value in pq.read_table(file)["instruction_id"].to_pylist()]


def test_a_block_is_written_to_the_shards_of_its_rows(tmp_path: Path) -> None:
    folders = {shard: str(tmp_path / shard[-1]) for shard in COUNTS}
    for folder in folders.values():
        Path(folder).mkdir()
    one, two, _ = COUNTS
    block = pa.concat_tables([rows(one, range(3)), rows(two, range(2), "failed", "timeout"), rows(one, range(3, 5))])
    found = {row["shard"]: row for row in write_each(block, folders, LOCAL, KEY).to_pylist()}
    assert {shard: (row["rows"], row["failed"], row["error"]) for shard, row in found.items()} == {
        one: (5, 0, None),
        two: (2, 2, "timeout"),
    }
    (file,) = Path(folders[one]).iterdir()
    assert pq.read_table(file).column_names == SCHEMA.names and len(pq.read_table(file)) == 5
    assert len(write_each(block.slice(0, 0), folders, LOCAL, KEY)) == 0


def test_every_shard_has_its_rows_once(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    write(run, everything())
    for shard in COUNTS:
        assert sorted(ids_in(run, shard)) == sorted(f"{shard}-{n}" for n in range(40))
    assert ShardedTables(run, MADE, COUNTS).rows == {}, "no shard is left"


def test_a_shard_is_published_while_others_are_in_progress(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, events = run_in(tmp_path / "run"), []
    publish = run.publish

    def seen(table: str, *given: object, **named: object) -> Manifest:
        events.append(table)
        return publish(table, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "publish", seen)
    last = list(COUNTS)[-1]

    def slowly() -> Iterator[pa.Table]:
        for block in everything():
            if block["shard"][0].as_py() == last:
                assert len(events) >= 1, "the first shard waited for the last"
            yield block

    tables = ShardedTables(run, MADE, COUNTS)
    blocks = iter(slowly())
    monkeypatch.setattr(
        run_blocks,
        "written",
        lambda rows, write, *_: (row for block in blocks for row in write(block).to_pylist()),
    )
    tables.write(
        ray.data.from_arrow(everything()),
        rows_per_block=None,
        transform_cpus=0.1,
        max_error_rate=0.1,
        drained=lambda: True,
    )
    assert sorted(events) == [f"{shard}/made" for shard in COUNTS]


def test_a_finished_shard_is_not_made_again(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    first, second, third = COUNTS
    unasked = rows(third, range(40), *UNASKED)
    with pytest.raises(Stopped, match="budget"):
        write(run, [rows(first, range(40)), rows(second, range(25)), rows(second, range(25, 40), *UNASKED), unasked])
    assert run.done(f"{first}/made") and not run.done(f"{second}/made")
    before = {file: Path(file).stat().st_mtime_ns for file in run.files(f"{first}/made")}
    tables = ShardedTables(run, MADE, COUNTS)
    assert set(tables.rows) == {second, third}
    live = [block for block in everything() if block["shard"][0].as_py() != first]
    left = tables.remaining(ray.data.from_arrow(live), 0.1)
    found = [row["instruction_id"] for row in left.take_all()]
    assert sorted(found) == sorted(
        [*(f"{second}-{n}" for n in range(25, 40)), *(f"{third}-{n}" for n in range(40))]
    )  # fmt: skip
    tables.write(left, rows_per_block=7, transform_cpus=0.1, max_error_rate=0.1, drained=lambda: True)
    assert all(len(set(ids_in(run, shard))) == len(ids_in(run, shard)) == 40 for shard in COUNTS)
    assert before == {file: Path(file).stat().st_mtime_ns for file in run.files(f"{first}/made")}


def test_a_repeated_row_does_not_complete_a_shard(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    first, *others = COUNTS
    twice = [rows(first, range(20)), rows(first, range(20)), rows(first, range(20, 40))]
    write(run, [*twice, *(rows(shard, range(40)) for shard in others)])
    assert sorted(ids_in(run, first)) == sorted(f"{first}-{n}" for n in range(40))


def test_missing_rows_stop_the_run(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    with pytest.raises(StageError, match=r"shards/00002/made: 40 rows went in and 39 came out"):
        write(run, [*everything()[:-1], rows("shards/00002", range(30, 39))])
    assert run.done("shards/00001/made") and not run.done("shards/00002/made")


def test_the_error_rate_is_taken_over_all_shards(tmp_path: Path, ray_local: None) -> None:
    """A shard with more failed rows than others is finished too if they are few among all rows."""
    run = run_in(tmp_path / "run")
    first, *others = COUNTS
    failed = rows(first, range(30, 40), "failed", "timeout")
    write(run, [rows(first, range(30)), failed, *(rows(shard, range(40)) for shard in others)])
    assert run.manifest(f"{first}/made").count("failed") == 10


def test_a_shard_with_too_many_failed_rows_is_continued(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    first, second, third = COUNTS
    failed = [rows(shard, range(30, 40), "failed", "timeout") for shard in (first, third)]
    blocks = [rows(first, range(30)), failed[0], rows(second, range(40)), rows(third, range(30)), failed[1]]
    with pytest.raises(StageError, match=r"shards/00000 to shards/00002/made: \d+ of 120 rows failed"):
        write(run, blocks)
    assert not run.done(f"{first}/made") and not run.done(f"{third}/made")
    write(run, [block for block in everything() if block["shard"][0].as_py() != second])
    assert all(run.manifest(f"{shard}/made").statuses == {"ok": 40} for shard in COUNTS)


def test_shards_that_fail_leave_no_pipeline_open(tmp_path: Path, ray_local: None) -> None:
    blocks = [rows(shard, range(n, n + 1), "failed", "timeout") for shard in COUNTS for n in range(40)]
    slow = ray.data.from_arrow(blocks).map_batches(slowly, batch_format="pyarrow", batch_size=None, num_cpus=1)
    tables = ShardedTables(run_in(tmp_path / "run"), MADE, COUNTS)
    with pytest.raises(StageError) as error:
        tables.write(slow, rows_per_block=1, transform_cpus=0.1, max_error_rate=0.01, drained=lambda: True)
    for pipeline in pipelines():
        pipeline.join(timeout=5)
    assert error.tb and not pipelines(), "the frames of the error still exist, the pipeline does not"


def test_rows_that_failed_in_earlier_tables_do_not_count(tmp_path: Path, ray_local: None) -> None:
    run = run_in(tmp_path / "run")
    blocks = [pa.concat_tables([rows(shard, range(30)), rows(shard, range(30, 40), "failed", "x")]) for shard in COUNTS]
    for carried in (dict.fromkeys(COUNTS, 5), dict.fromkeys(COUNTS, 10)):
        tables = ShardedTables(run, MADE, COUNTS, carried)
        left = tables.remaining(ray.data.from_arrow(blocks), 0.1)
        with pytest.raises(StageError, match="of 120 rows failed") if carried["shards/00000"] == 5 else nullcontext():
            tables.write(left, rows_per_block=7, transform_cpus=0.1, max_error_rate=0.1, drained=lambda: True)
    assert all(run.manifest(f"{shard}/made").count("failed") == 10 for shard in COUNTS)
