"""Mutated rows of every format: each gives rows with a status, keeps its text, and never ends in a traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.config import SeedData
from tapir_ray.data.columns import FALLBACK, INPUT, NAMES
from tapir_ray.data.formats import Malformed, Unsupported, parse, parse_evaluation
from tapir_ray.data.thoughts import DEFAULT_MARKS
from tapir_ray.transforms.ingest import PARSED, parsed_rows

COLUMNS = sorted({INPUT, *(name for table in (NAMES, FALLBACK) for names in table.values() for name in names)})
MARK = st.sampled_from([mark for pair in DEFAULT_MARKS[:6] for mark in pair])
TEXT = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=6), st.sampled_from(["a", "b", " ", "[red]", "\x1b[0m"]), MARK
).map(str) | st.lists(st.sampled_from(["q", "<think>", "</think>", "\n"]), max_size=4).map("".join)
ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.just("\ud800") | st.binary(max_size=3)
ROLE = st.sampled_from(["user", "Human", "assistant", "gpt", "system", "developer", "tool", "robot", ""])
TURN_KEYS = st.sampled_from(
    ["role", "from", "content", "value", "text", "weight", "train", "function_call", "reasoning_content", "name",
     "human", "assistant", "type"]
)  # fmt: skip
CONTENT = TEXT | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2)
TURN = (
    st.fixed_dictionaries({"role": ROLE, "content": CONTENT}, optional={"weight": st.sampled_from([0, 1, 0.5, None])})
    | st.fixed_dictionaries({"from": ROLE, "value": TEXT})
    | st.fixed_dictionaries({"human": TEXT, "assistant": TEXT})
    | st.dictionaries(TURN_KEYS, TEXT | ODD, max_size=3)
)
TURNS = st.lists(TURN, max_size=4)
VALUE = TEXT | TURNS | ODD | st.lists(TEXT, max_size=3) | st.lists(st.tuples(TEXT, TEXT).map(list), max_size=2)
VALUE |= st.dictionaries(st.sampled_from(["text", "label", "A", "B"]), TEXT | st.lists(TEXT, max_size=2), max_size=2)
PLAIN = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(str.strip)
"""A text that often is valid, so that many rows are conversations."""
ASKED = st.sampled_from([{"role": "user", "content": "q"}, {"from": "human", "value": [{"type": "text", "text": "q"}]}])
TALK = st.tuples(ASKED, TURNS).map(lambda one: [one[0], *one[1]])
NAME = st.sampled_from([*COLUMNS, "rejected", "kind", "hint", "label", "masked_turns", "meta", "Answer"])
PROMPT, RESPONSE = st.sampled_from(NAMES["prompt"]), st.sampled_from(NAMES["response"])
OTHERS = st.dictionaries(st.sampled_from(["hint", "kind", "rejected", "text", "label", "id"]), VALUE, max_size=2)
ALPACA = st.fixed_dictionaries(
    {"instruction": PLAIN, "output": PLAIN},
    optional={"input": TEXT, "context": TEXT, "options": VALUE, "history": VALUE, "system": TEXT, "reasoning": TEXT},
)
ASK_AND_ANSWER = st.tuples(PROMPT, PLAIN | TALK, RESPONSE, PLAIN | TURNS).map(
    lambda one: {one[0]: one[1], one[2]: one[3]}
)
TALKS = st.tuples(st.sampled_from(NAMES["messages"]), TALK).map(lambda one: {one[0]: one[1]})
USUAL = st.tuples(ALPACA | ASK_AND_ANSWER | TALKS, OTHERS).map(lambda one: {**one[1], **one[0]})
MUTATED = st.tuples(USUAL, st.dictionaries(NAME, VALUE, max_size=1)).map(lambda one: {**one[0], **one[1]})
ANY = st.dictionaries(NAME, VALUE, max_size=5) | VALUE
ROW = st.integers(0, 9).flatmap(lambda n: USUAL if n < 5 else MUTATED if n < 8 else ANY)
FORMAT = st.integers(0, 9).flatmap(
    lambda n: st.just("auto") if n < 8 else st.sampled_from(["messages", "sharegpt", "alpaca", "prompt"])
)
MAPPED = st.integers(0, 9).flatmap(
    lambda n: st.just({})
    if n < 8
    else st.dictionaries(st.sampled_from(sorted(NAMES)), st.lists(NAME, max_size=1), max_size=2)
)


def texts(value: Any, within: bool = False) -> Iterator[str]:
    """Yields every text of a row, except role names of turns and types of parts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            if not within or key not in ("role", "from", "type"):
                yield from texts(one, within=True)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one, within=True)


MARKS = re.compile("|".join(re.escape(mark) for pair in DEFAULT_MARKS for mark in pair), re.IGNORECASE)


def pieces(text: str) -> list[str]:
    """Returns the texts between the marks of thoughts without white space; reading may split a text at a mark."""
    return ["".join(piece.split()) for piece in MARKS.split(text)]


@settings(max_examples=400, deadline=None)
@given(ROW, FORMAT, MAPPED, st.sampled_from(["last", "all"]))
def test_no_row_and_no_text_is_lost(raw: Any, format: str, mapped: dict[str, list[str]], turns: str) -> None:
    data = SeedData(path="a.jsonl", task_column="kind")
    made = parsed_rows(raw, "a.jsonl:1", data, lambda row: parse(row, format, turns, mapped))
    rows = pa.Table.from_pylist([{**row, "position": 0} for row in made], schema=PARSED).to_pylist()
    assert rows
    found = []
    for row in rows:
        assert (row["status"], row["reason"] is None) in (("ok", True), ("filtered", False))
        assert row["status"] == "ok" or row["reason"].startswith(("malformed:", "unsupported:", "ambiguous:"))
        assert row["task"] is None or row["task"].isprintable()
        assert all(0 <= at < len(row["messages"]) for at in row["masked_turns"] or ())
        found += [message["content"] for message in row["messages"] or ()]
        found += [row["response"] or "", row["reasoning"] or "", *texts(json.loads(row["meta"] or "{}"))]
    assert sum(row["columns"] is not None for row in rows) == 1
    if isinstance(raw, dict) and rows[0]["status"] == "ok":
        kept = "".join(pieces("\n".join(found)))
        for text in texts(raw):
            assert all(piece in kept for piece in pieces(text))


@settings(max_examples=150, deadline=None)
@given(ROW)
def test_evaluation_rows_end_in_no_traceback(raw: Any) -> None:
    try:
        found = parse_evaluation(raw)
    except (Malformed, Unsupported):
        return
    assert found and all(one.messages and one.response is None for one in found)


@pytest.mark.parametrize("depth", [100, 5_000])
def test_a_deeply_nested_row_gives_one_row(depth: int) -> None:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": [value]}
    (row,) = parsed_rows({"instruction": "q", "output": value}, "a.jsonl:1", SeedData(path="a"))
    assert (row["status"], row["meta"]) == ("filtered", None)
