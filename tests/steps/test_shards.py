"""Shards: a dataset is cut into shards of at most `rows` rows, each row in one of them, the same way every time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.steps.shards import Shard, Span, cut, groups, read_span

FILES = st.lists(st.integers(0, 50), max_size=12).map(lambda rows: [(f"f{at}", n) for at, n in enumerate(rows)])


@given(FILES, st.integers(1, 40))
def test_every_row_is_in_one_shard(files: list[tuple[str, int]], rows: int) -> None:
    shards = cut(files, rows)
    found = [(span.file, at) for shard in shards for span in shard.spans for at in range(span.start, span.stop)]
    assert found == [(file, at) for file, count in files for at in range(count)]
    assert [shard.rows for shard in shards[:-1]] == [rows] * (len(shards) - 1)
    assert all(0 < shard.rows <= rows for shard in shards)
    assert sorted({shard.name for shard in shards}) == [shard.name for shard in shards]


def test_a_large_file_is_split_and_small_files_are_joined() -> None:
    one, two, three = cut([("a", 5), ("b", 1), ("c", 3)], 4)
    assert one == Shard("shards/00000", (Span("a", 0, 4),))
    assert two.spans == (Span("a", 4, 5), Span("b", 0, 1), Span("c", 0, 2))
    assert three.spans == (Span("c", 2, 3),)
    assert [len(group) for group in groups([one, two, three], 2)] == [2, 1]


def test_rows_of_a_span_have_the_name_of_their_shard(tmp_path: Path) -> None:
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": list(range(10))}), file)
    item = pa.Table.from_pylist([{"shard": "shards/00003", "file": file, "start": 4, "stop": 7}])
    rows = read_span(item, pafs.LocalFileSystem()).to_pylist()
    assert rows == [{"n": n, "shard": "shards/00003"} for n in (4, 5, 6)]
