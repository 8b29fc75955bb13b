"""Ingestion: each row read gives a row written, with its place if it is unusable, filtered if it repeats another
one."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.config import SeedData
from tapir_ray.data.columns import FALLBACK, INPUT, NAMES
from tapir_ray.data.formats import parse, parse_evaluation
from tapir_ray.data.schemas import instruction_id
from tapir_ray.transforms.ingest import (
    PARSED,
    _placed,
    _repeated,
    duplicate_positions,
    mark_duplicates,
    parse_sources,
    parsed_rows,
)

PROMPT_KEYS = ("prompt", "question", "query", "text")
TEXT_KEYS = sorted({INPUT, *(name for table in (NAMES, FALLBACK) for names in table.values() for name in names)})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "x"]), inner, max_size=3),
    max_leaves=6,
)
ROWS = VALUES | st.dictionaries(st.sampled_from([*TEXT_KEYS, "turns", "kind"]), VALUES, max_size=5)
FORMATS = st.sampled_from(["auto", "alpaca", "messages", "sharegpt", "prompt"])


def write(folder: Path, rows: list[object]) -> str:
    path = folder / "seed.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def test_of_equal_rows_one_with_an_answer_is_kept(tmp_path: Path, ray_local: None) -> None:
    """An earlier file may hold the bare prompt, for which the row with the answer was once dropped."""
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"instruction": "a", "output": "1"}, {"instruction": "a", "output": "2"}]
    path = write(tmp_path, [*rows, {"prompt": "b"}, {"instruction": "c", "output": "3"}, {"prompt": "c"}])
    parse_sources([path], SeedData(path=path), transform_cpus=0.1).write_parquet(str(tmp_path / "read"))
    files = [str(file) for file in (tmp_path / "read").glob("*.parquet")]

    def repeated(preferred: str | None) -> list[int]:
        return duplicate_positions(files, pafs.LocalFileSystem(), 0.1, preferred=preferred).tolist()

    assert repeated(None) == [2, 3, 4, 6]
    assert repeated("response") == [0, 3, 4, 6]


def test_rows_in_equal_rows_out(tmp_path: Path, ray_local: None) -> None:
    good = [{"instruction": f"i{n % 30}", "output": "o", "kind": "a"} for n in range(40)]
    tools = {"messages": [{"role": "user", "content": "q"}, {"role": "tool", "content": "x"}]}
    path = write(tmp_path, [*good, "{broken", tools, {"prompt": "p"}, {"instruction": "x", "output": 5}])
    rows = parse_sources([path], SeedData(path=path, task_column="kind"), transform_cpus=0.1)
    rows.write_parquet(str(tmp_path / "read"))
    table = pads.dataset(tmp_path / "read").to_table()
    assert table.schema.names == PARSED.names
    assert len(table) == 44

    files = [str(file) for file in (tmp_path / "read").glob("*.parquet")]
    repeated = duplicate_positions(files, pafs.LocalFileSystem(), transform_cpus=0.1)
    assert repeated.tolist() == list(range(30, 40))
    found = {row["position"]: row for row in mark_duplicates(table, repeated).to_pylist()}
    assert [found[at]["reason"] for at in (0, 35)] == [None, "duplicate"]
    assert found[40]["reason"].startswith("malformed: seed.jsonl:41")
    assert found[41]["reason"] == "unsupported: seed.jsonl:42: tool_calls"
    assert (found[42]["response"], found[42]["task"], found[0]["task"]) == (None, None, "a")
    assert found[43]["reason"].startswith("malformed: seed.jsonl:44: output is not text")
    assert json.loads(found[0]["meta"]) == {"kind": "a"}


@given(ROWS, FORMATS)
def test_any_row_gives_rows_of_the_table(raw: object, format: str) -> None:
    data = SeedData(path="a.jsonl", task_column="kind")
    for parser in (lambda row: parse(row, format, "all"), parse_evaluation):
        made = parsed_rows(raw, "a.jsonl:1", data, parser)
        rows = pa.Table.from_pylist(made, schema=PARSED).to_pylist()
        assert rows
        for row in rows:
            assert row["instruction_id"]
            assert (row["status"] == "ok") == (row["reason"] is None) == bool(row["messages"])
            assert row["response"] is None or row["response"].strip()
            asked = [turn["content"] for turn in row["messages"] or [] if turn["role"] == "user"]
            assert bool(asked) == (row["status"] == "ok") and all(text.strip() for text in asked)


@given(st.dictionaries(st.sampled_from([*PROMPT_KEYS, "instruction", "system"]), st.text(max_size=3), max_size=3))
def test_a_row_of_one_prompt_is_a_conversation_of_its_own(raw: dict[str, str]) -> None:
    for row in parsed_rows(raw, "a.jsonl:1", SeedData(path="a")):
        assert row["conversation_id"] == row["instruction_id"]


def test_all_turns_of_a_conversation_have_its_id() -> None:
    turns = [{"role": role, "content": f"{role} {at}"} for at in range(3) for role in ("user", "assistant")]
    rows = parsed_rows({"messages": turns}, "a.jsonl:1", SeedData(path="a"), lambda row: parse(row, "auto", "all"))
    assert len({row["instruction_id"] for row in rows}) == 3
    assert {row["conversation_id"] for row in rows} == {instruction_id(turns[:5])}


def test_limit_reads_the_first_rows_of_all_files(tmp_path: Path, ray_local: None) -> None:
    for name in ("a", "b"):
        lines = [json.dumps({"instruction": f"{name}{n}", "output": "o"}) for n in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    rows = parse_sources(files, SeedData(path=str(tmp_path), limit=7), transform_cpus=0.1).take_all()
    assert [row["messages"][0]["content"] for row in rows] == ["a0", "a1", "a2", "a3", "a4", "b0", "b1"]


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=12), st.integers(1, 4))
def test_repeats_are_found_for_any_number_of_hash_ranges(rows: list[tuple[str, bool]], parts: int) -> None:
    """The tasks read each file on its own. Rows that are not ok neither count nor repeat."""
    table = pa.table(
        {
            "instruction_id": pa.array([row_id for row_id, _ in rows], pa.string()),
            "position": pa.array(range(len(rows)), pa.int64()),
            "status": pa.array(["ok" if ok else "filtered" for _, ok in rows], pa.string()),
        }
    )
    ok_ids = [row_id if ok else None for row_id, ok in rows]
    expected = [at for at, row_id in enumerate(ok_ids) if row_id is not None and row_id in ok_ids[:at]]
    with tempfile.TemporaryDirectory() as folder:
        shares = []
        for name, share in (("a", table.slice(0, len(rows) // 2)), ("b", table.slice(len(rows) // 2))):
            pq.write_table(share, f"{folder}/{name}.parquet")
            shares.append(_placed([f"{folder}/{name}.parquet"], pafs.LocalFileSystem(), "instruction_id", None, parts))
    found = [_repeated(*(share[part] for share in shares)) for part in range(parts)]
    assert sorted(np.concatenate(found).tolist()) == expected
