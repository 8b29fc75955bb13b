"""Marks of styled answers: the style stands after the last user turn, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.data.schemas import GENERATED_ROWS, OK, TRAINING, conform, instruction_id
from tapir_ray.transforms.mark_style import mark_style


def turns(*texts: str) -> list[dict[str, str]]:
    """Returns turns of the form `user: text`."""
    return [dict(zip(("role", "content"), text.split(": ", 1), strict=True)) for text in texts]


@pytest.mark.parametrize(
    ("messages", "marked"),
    [
        (turns("user: Add 2 and 3."), turns("user: Add 2 and 3.\n\nIn steps.")),
        (turns("system: Be brief.", "user:  a \n"), turns("system: Be brief.", "user:  a \n\n\nIn steps.")),
        (
            turns("user: a", "assistant: b", "user: c"),
            turns("user: a", "assistant: b", "user: c\n\nIn steps."),
        ),
    ],
    ids=["one turn", "system", "conversation"],
)
def test_the_style_follows_the_last_user_turn(messages: list[dict[str, str]], marked: list[dict[str, str]]) -> None:
    row = {"instruction_id": instruction_id(messages), "messages": messages, "response": "r", "status": OK}
    rows = conform([{**row, "style": "In steps."}, {**row, "style": None}], GENERATED_ROWS)
    found = mark_style(rows)
    assert found.schema == rows.schema
    assert found["messages"].to_pylist() == [marked, messages]
    assert found.drop_columns(["messages"]) == rows.drop_columns(["messages"]), "the ids are of the unmarked turns"


def test_rows_without_messages_or_without_the_column_pass_unchanged() -> None:
    failed: dict[str, Any] = {"messages": None, "style": "In steps.", "status": "failed"}
    rows = conform([failed], GENERATED_ROWS)
    assert mark_style(rows) == rows
    own = conform([{"messages": turns("user: a"), "status": OK}], TRAINING)
    assert mark_style(own) == own
