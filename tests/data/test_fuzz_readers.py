"""Readers of arbitrary bytes: every line gives one row or one exception object, and nothing is raised."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.data.readers import Unreadable, read_raw

GOOD = [json.dumps({"instruction": f"say {n} é", "output": [1, {"a": None}], "x": 1.5}).encode() for n in range(6)]
PIECES = [
    b"\xff", b"\x00", b"\\ud800", b"\xed\xa0\x80", b"NaN", b"1e999", b"[" * 3000, b"{", b"}", b'"', b",", b"\\",
    b"\xef\xbb\xbf", b"9" * 5000, b"-Infinity", b'"a": 1, "a": 2', b"\xe2\x80\xa8",
    b"null", b"\t", b"\x0b", b"\x1c", b"\x85",
]  # fmt: skip
EDITS = st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 9), st.sampled_from(PIECES)), max_size=4)


def mutated(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, removed, piece in edits:
        at %= max(1, len(data))
        data = data[:at] + piece + data[at + removed :]
    return data


def rows_of(name: str, data: bytes) -> list[tuple[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        found = list(read_raw(str(path)))
    for place, row in found:
        assert place.startswith(name)
        if not isinstance(row, Exception):
            json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
    return found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(GOOD), EDITS), min_size=1, max_size=6))
def test_every_line_gives_a_row_or_an_error(lines: list[tuple[bytes, list[tuple[int, int, bytes]]]]) -> None:
    written = [mutated(line, edits) for line, edits in lines]
    data = b"\n".join(written)
    for name, packed in (("a.jsonl", data), ("a.jsonl.gz", gzip.compress(data))):
        found = rows_of(name, packed)
        if len(found) == 1 and isinstance(found[0][1], Unreadable):
            assert "UTF-16" in str(found[0][1])  # No other line here begins with the first bytes of another file type.
            continue
        expected = [number for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
        assert [place for place, _ in found] == [f"{name}:{number}" for number in expected]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(EDITS, st.booleans())
def test_a_json_file_is_read_whole_or_reported(edits: list[tuple[int, int, bytes]], as_lines: bool) -> None:
    data = mutated(b"\n".join(GOOD) if as_lines else b"[" + b",".join(GOOD) + b"]", edits)
    found = rows_of("a.json", data)
    assert found or not data.strip() or data.strip() == b"[]"
    if not any(isinstance(row, Unreadable) for _, row in found) and as_lines:
        assert len(found) == sum(bool(line.strip()) for line in data.split(b"\n"))


def _parquet() -> bytes:
    with pa.BufferOutputStream() as stream:
        pq.write_table(pa.table({"instruction": [str(row) for row in GOOD]}), stream)
        return stream.getvalue().to_pybytes()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**4), st.sampled_from(["a.parquet", "a.jsonl.gz", "a.json.zst"]))
def test_a_truncated_file_ends_in_unreadable(at: int, name: str) -> None:
    whole = {
        "a.parquet": _parquet(),
        "a.jsonl.gz": gzip.compress(b"\n".join(GOOD)),
        "a.json.zst": pa.compress(b"[" + b",".join(GOOD) + b"]", codec="zstd", asbytes=True),
    }[name]
    cut = whole[: 1 + at % (len(whole) - 1)]
    assert isinstance(rows_of(name, cut)[-1][1], Unreadable)
