"""Ids: equal content has the same id everywhere, other content another one."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.data.schemas import (
    TRAINING,
    conform,
    draw_id,
    instruction_id,
    marked,
    order_key,
    pair_id,
    text_of,
    with_columns,
)

MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=20)}),
    min_size=1,
    max_size=4,
)


@given(MESSAGES, MESSAGES)
def test_ids_are_equal_if_and_only_if_messages_are(one: list, other: list) -> None:
    assert (instruction_id(one) == instruction_id(other)) == (one == other)
    assert len(instruction_id(one)) == 32


def test_ids_never_change() -> None:
    # Stored runs are joined by these ids: a new canonical form must raise ID_VERSION.
    assert instruction_id([{"role": "user", "content": "x"}]) == "6ae68c3294321ea1a766a1d4d62b3afd"


def test_case_and_white_space_change_an_id() -> None:
    ids = {instruction_id([{"role": "user", "content": text}]) for text in ("a b", "A b", "a  b", "a b ")}
    assert len(ids) == 4


def test_keys_of_different_draws_and_pairs_differ() -> None:
    assert len({pair_id("a", 0), pair_id("a", 1), draw_id(1, "a", 0), draw_id(2, "a", 0), draw_id(1, "a", 1)}) == 5
    assert order_key("a", 0, 1) != order_key("a", 0, 2) != order_key("a", 1, 2)


def test_the_text_of_a_single_user_turn_is_its_content() -> None:
    assert text_of([{"role": "user", "content": "hello"}]) == "hello"
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert text_of(turns) == "[system]\nbe brief\n\n[user]\nhello"


def test_conform_adds_and_orders_columns() -> None:
    table = conform(pa.table({"tokens": pa.array([3], pa.int32()), "pair_id": ["a"], "other": [1]}), TRAINING)
    assert table.schema == TRAINING
    assert table["tokens"].to_pylist() == [3]
    with pytest.raises(pa.ArrowInvalid):
        conform(pa.table({"tokens": ["three"]}), TRAINING)


def test_marked_changes_only_ok_rows() -> None:
    table = pa.table({"status": ["ok", "ok", "failed"], "reason": pa.array([None, None, "x"], pa.string())})
    found = marked(table, pa.array([True, False, True]), "empty")
    assert found["status"].to_pylist() == ["filtered", "ok", "failed"]
    assert found["reason"].to_pylist() == ["empty", None, "x"]
    assert with_columns(found, status=None)["status"].null_count == 3
