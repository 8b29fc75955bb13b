"""Every row read is a row written: with its place where it cannot be used, filtered where it repeats an earlier one."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.dataset as pads
import pyarrow.fs as pafs

from tapir_ray.config import SeedData
from tapir_ray.stages.ingest import PARSED, duplicate_positions, mark_duplicates, parse_sources


def write(folder: Path, rows: list[object]) -> str:
    path = folder / "seed.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def test_rows_in_equal_rows_out(tmp_path: Path, ray_local: None) -> None:
    good = [{"instruction": f"i{n % 30}", "output": "o", "kind": "a"} for n in range(40)]
    tools = {"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "x"}]}
    path = write(tmp_path, [*good, "{broken", tools, {"prompt": "p"}])
    rows = parse_sources([path], SeedData(path=path, task_column="kind"), stage_cpus=0.1)
    rows.write_parquet(str(tmp_path / "read"))
    table = pads.dataset(tmp_path / "read").to_table()
    assert table.schema.names == PARSED.names
    assert len(table) == 43

    files = [str(file) for file in (tmp_path / "read").glob("*.parquet")]
    repeated = duplicate_positions(files, pafs.LocalFileSystem(), stage_cpus=0.1)
    assert repeated.tolist() == list(range(30, 40))
    found = {row["position"]: row for row in mark_duplicates(table, repeated).to_pylist()}
    assert [found[at]["reason"] for at in (0, 35)] == [None, "duplicate"]
    assert found[40]["reason"].startswith("malformed: seed.jsonl:41")
    assert found[41]["reason"] == "unsupported: seed.jsonl:42: tool_calls"
    assert (found[42]["response"], found[42]["task"], found[0]["task"]) == (None, None, "a")
    assert json.loads(found[0]["meta"]) == {"kind": "a"}


def test_limit_reads_the_first_rows_of_all_files(tmp_path: Path, ray_local: None) -> None:
    for name in ("a", "b"):
        lines = [json.dumps({"instruction": f"{name}{n}", "output": "o"}) for n in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    rows = parse_sources(files, SeedData(path=str(tmp_path), limit=7), stage_cpus=0.1).take_all()
    assert [row["messages"][0]["content"] for row in rows] == ["a0", "a1", "a2", "a3", "a4", "b0", "b1"]
