"""Values that JSON, tables or terminals cannot hold are changed or refused when a row is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.data.formats import Malformed, parse
from tapir_ray.data.values import DEEPEST, one_line, plain, to_json
from tests.data.test_column_reading import case


def nested(levels: int) -> Any:
    value: Any = "x"
    for at in range(levels):
        value = [value] if at % 2 else {"a": value}
    return value


def test_nan_and_infinity_become_null() -> None:
    assert plain({"a": [float("nan"), float("inf"), -0.5]}) == {"a": [None, None, -0.5]}
    first = parse(json.loads('{"instruction":"q","output":"a","quality":NaN,"emb":[Infinity,0.5],"input":NaN}'))[0]
    assert (first.messages[0]["content"], first.meta) == ("q", {"quality": None, "emb": [None, 0.5]})
    for row in case("15-nan-meta"):
        assert json.loads(to_json(parse(row)[0].meta), parse_constant=pytest.fail) is not None


@pytest.mark.parametrize("levels", [DEEPEST + 1, 900, 100_000])
def test_a_row_nested_beyond_the_limit_is_malformed(levels: int) -> None:
    with pytest.raises(Malformed, match="nested deeper"):
        parse({"instruction": "q", "output": "a", "x": nested(levels)})
    assert parse({"instruction": "q", "output": "a", "x": nested(DEEPEST - 1)})


@pytest.mark.parametrize(
    "row", [{"instruction": "\ud800"}, {"prompt": "q", "\udfff": 1}, {"prompt": "q", "x": ["\ud83d"]}]
)
def test_a_lone_surrogate_is_malformed(row: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="surrogate"):
        parse(row)


@given(st.text())
def test_a_printed_line_has_no_control_characters(text: str) -> None:
    line = one_line(text)
    assert line.isprintable() and line == one_line(line)


def test_names_keep_markup_and_lose_escapes() -> None:
    assert one_line("[red]<b>\n\x1b[31m日本") == "[red]<b> [31m日本"
