"""A user's own rows: derivable columns are filled in, rows without the needed ones are filtered with a reason."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.data.schemas import GENERATED_ROWS, INSTRUCTIONS, SCORED, TRAINING, instruction_id, pair_id
from tapir_ray.transforms.user_rows import completed, with_places

MESSAGES = [{"role": "user", "content": "q"}]
SCHEMAS = [INSTRUCTIONS, SCORED, GENERATED_ROWS, TRAINING]


def one(raw: Any, schema: pa.Schema = INSTRUCTIONS, needed: tuple[str, ...] = ("messages",)) -> dict[str, Any]:
    """Returns the row as read back from a table of the schema."""
    whole = with_places(schema)
    row = completed(raw, "own.jsonl:7", whole, needed, schema is GENERATED_ROWS)
    (made,) = pa.Table.from_pylist([{**row, "position": 0}], schema=whole).to_pylist()
    return made


def test_ids_and_statuses_are_filled_in() -> None:
    row = one({"messages": MESSAGES, "response": "a"}, TRAINING)
    assert row["instruction_id"] == instruction_id(MESSAGES)
    assert row["pair_id"] == pair_id(row["instruction_id"], 0)
    assert (row["status"], row["pool"], row["copy"]) == ("ok", "hard", 0)


def test_the_columns_that_a_stage_needs_suffice() -> None:
    for schema in SCHEMAS:
        row = one({"messages": MESSAGES}, schema)
        assert row["status"] == "ok"
        assert set(row) >= set(schema.names)


def test_difficulty_is_derived_from_scores_and_given_columns_are_kept() -> None:
    row = one({"messages": MESSAGES, "teacher_score": 9, "student_score": 4.0, "round": 0.0}, SCORED)
    assert (row["difficulty"], row["status"], row["split"], row["round"]) == (5.0, "ok", "seed", 0)
    assert (
        one({"messages": MESSAGES, "teacher_score": 9, "student_score": 4, "difficulty": 1.5}, SCORED)["difficulty"]
        == 1.5
    )
    failed = one({"messages": None, "status": "failed", "reason": "TimeoutError", "draw_id": "d"}, GENERATED_ROWS)
    assert (failed["status"], failed["reason"], failed["draw_id"]) == ("failed", "TimeoutError", "d")


def test_a_generated_row_is_hard_unless_it_gives_another_pool() -> None:
    """A row of an unknown pool would be in no quota, and so silently in no training set."""
    assert one({"messages": MESSAGES, "response": "a"}, GENERATED_ROWS)["pool"] == "hard"
    assert one({"messages": MESSAGES, "response": "a", "pool": "easy"}, GENERATED_ROWS)["pool"] == "easy"
    wrong = one({"messages": MESSAGES, "response": "a", "pool": "medium"}, GENERATED_ROWS)
    assert (wrong["status"], wrong["reason"]) == (
        "filtered", "malformed: own.jsonl:7: pool is 'medium'; it must be hard or easy",
    )  # fmt: skip


def test_an_id_that_does_not_match_the_messages_is_replaced() -> None:
    assert one({"messages": MESSAGES, "instruction_id": "mine-1"})["instruction_id"] == instruction_id(MESSAGES)


def test_other_columns_are_kept_for_strata() -> None:
    assert json.loads(one({"messages": MESSAGES, "level": 3})["meta"]) == {"level": 3}
    assert json.loads(one({"messages": MESSAGES, "meta": '{"level": 4}'})["meta"]) == {"level": 4}


def test_the_place_in_the_file_is_the_source_so_that_repeated_rows_differ() -> None:
    row = one({"messages": MESSAGES, "source": "dolly", "meta": {"level": 4}})
    assert row["source"] == "own.jsonl:7"
    assert json.loads(row["meta"]) == {"level": 4, "source": "dolly"}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (
            {"messages": MESSAGES, "split": "train"},
            "malformed: own.jsonl:7: split is 'train'; it must be seed, holdout",
        ),
        ({"messages": MESSAGES, "status": "done"}, "malformed: own.jsonl:7: status is 'done'"),
        ({"messages": MESSAGES, "response": 5}, "malformed: own.jsonl:7: the column response is not of type string"),
        (
            {"messages": [*MESSAGES, {"role": "assistant", "content": "a"}], "response": "b"},
            "malformed: own.jsonl:7: messages ends with",
        ),
        ({"messages": []}, "malformed: own.jsonl:7: messages is not a list"),
        ({"messages": [*MESSAGES, {"role": "tool", "content": "a"}]}, "unsupported: own.jsonl:7: tool_calls"),
        (ValueError("bad"), "malformed: own.jsonl:7: not valid JSON (bad)"),
        ({"messages": MESSAGES, "response": " "}, "no_response"),
        ({"messages": MESSAGES, "response": "a", "task": None}, "no_task"),
    ],
)
def test_an_unusable_row_gives_the_reason(raw: Any, reason: str) -> None:
    row = one(raw, INSTRUCTIONS, ("messages", "response", "task"))
    assert row["status"] == "filtered"
    assert row["reason"].startswith(reason)


def test_holdout_rows_are_never_trained_on() -> None:
    raw = {"messages": MESSAGES, "response": "a", "split": "holdout"}
    assert [one(raw, schema)["reason"] for schema in SCHEMAS] == [None, None, "holdout", "holdout"]


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"), max_size=5)
COLUMNS = st.sampled_from(sorted({name for schema in SCHEMAS for name in schema.names} - {"messages"}))
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": VALUES})


@given(
    st.dictionaries(COLUMNS, VALUES | st.lists(VALUES, max_size=2), max_size=5),
    st.none() | VALUES | st.lists(TURN, max_size=3) | st.just(MESSAGES),
    st.sampled_from(SCHEMAS),
)
def test_any_row_fits_the_table(columns: dict[str, Any], messages: Any, schema: pa.Schema) -> None:
    row = one({**columns, "messages": messages}, schema, ("messages",))
    assert row["instruction_id"]
    assert row["conversation_id"]
    assert row["status"] != "ok" or row["messages"]
    kept = [name for name in schema.names if name != "meta"]
    again = one({name: row[name] for name in schema.names}, schema)
    assert {name: again[name] for name in kept} == {name: row[name] for name in kept}, "a run's own table is unchanged"


def test_an_answer_of_weight_0_is_in_no_loss_and_fields_of_turns_are_kept() -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "a", "weight": 0}, {**MESSAGES[0], "name": "Ann"}]
    row = one({"messages": turns, "response": "<think>hm</think>b"})
    assert (row["masked_turns"], row["response"], row["reasoning"]) == ([1], "b", "hm")
    assert json.loads(row["meta"]) == {"turn_fields": [{"turn": 2, "name": "Ann"}]}
    assert one(row)["masked_turns"] == [1]


def test_other_columns_are_merged_into_a_column_meta() -> None:
    assert json.loads(one({"messages": MESSAGES, "meta": {"level": 4}, "hint": "h"})["meta"]) == {
        "level": 4,
        "hint": "h",
    }
    assert json.loads(one({"messages": MESSAGES, "meta": "no JSON", "x": float("inf")})["meta"]) == {
        "meta": "no JSON",
        "x": None,
    }


def test_a_row_nested_beyond_the_limit_is_filtered() -> None:
    value: Any = "x"
    for _ in range(900):
        value = [value]
    assert one({"messages": MESSAGES, "x": value})["reason"].startswith("malformed: own.jsonl:7: nested deeper")
