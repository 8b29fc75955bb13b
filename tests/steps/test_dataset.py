"""Rows of a published dataset: conversations with their answers."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.data.schemas import FAILED, FILTERED, OK, conform
from tapir_ray.steps.dataset import SCHEMA, exported
from tapir_ray.steps.reanswer import REGENERATED

turn = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=5)})
row = st.fixed_dictionaries(
    {
        "messages": st.lists(turn, max_size=4),
        "response": st.text(max_size=5),
        "status": st.sampled_from([OK, OK, FILTERED, FAILED]),
    }
)


@given(rows=st.lists(row, max_size=9), chunks=st.integers(1, 3), first=st.integers(0, 3))
def test_each_ok_row_becomes_its_turns_followed_by_its_answer(
    rows: list[dict[str, Any]], chunks: int, first: int
) -> None:
    table = pa.concat_tables([conform(rows, REGENERATED)] * chunks).slice(first)
    found = exported(table)
    assert found.schema.equals(SCHEMA)
    found.validate(full=True)
    assert found["messages"].to_pylist() == [
        [*row["messages"], {"role": "assistant", "content": row["response"]}]
        for row in (rows * chunks)[first:]
        if row["status"] == OK
    ]
