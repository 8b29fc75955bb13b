"""Scores in JSON: the schema that a judge is asked to follow, and the parser of such replies.

scores_format(2)                                       # response_format of a request for two scores
of_json({"answer_1": 8, "answer_2": 6}, 2)             # (8.0, 6.0)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

LOWEST, HIGHEST = 1.0, 10.0

Scores = tuple[float, ...]

NUMBER = (
    r"(?<![\w./+\-])(\d{1,2}(?:\.\d+)?)(?![\w.]*\d|[A-Za-z])"
    r"(?:\s*(?:/|\bout\s+of\b)\s*10(?:\.0+)?(?![\w.]*\d)|\s*(?:points?\b|pts?\b|分|点|點|점))?"
)
"""Pattern of a score in a text, with an optional scale or unit: `8`, `7.5/10`, `8 out of 10`, `8 points`."""
_NAME_IN_JSON = re.compile(
    r"(?:scores?_(?:of_|for_)?)?(?:answer|assistant|response|model|score|rating)_?(?P<name>[12ab])(?:_(?:score|rating))?"
)
_LISTS, _SINGLE = ("scores", "ratings", "verdict"), ("score", "rating", "answer_score")
PLACES = {"1": 0, "a": 0, "first": 0, "2": 1, "b": 1, "second": 1}


def scores_format(count: int) -> dict[str, Any]:
    """Returns the `response_format` of a reply with `count` scores: the reasoning, then whole numbers from 1 to 10."""
    # The reasoning comes first because a model writes the keys in this order: scores should follow from it.
    names = ["score"] if count == 1 else [f"answer_{number}" for number in range(1, count + 1)]
    score = {"type": "integer", "enum": list(range(int(LOWEST), int(HIGHEST) + 1))}
    schema = {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, **dict.fromkeys(names, score)},
        "required": ["reasoning", *names],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "scores", "strict": True, "schema": schema}}


class _Twice(ValueError):
    """Raised for a key that occurs twice in a JSON object."""


def decoder() -> json.JSONDecoder:
    """Returns a decoder that allows line breaks in strings and raises ValueError for a repeated key."""
    return json.JSONDecoder(strict=False, object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise _Twice
    return dict(pairs)


def _no_number(name: str) -> None:
    """Decodes NaN and Infinity, which are not scores, as None."""


def of_json(found: Any, count: int, inside: bool = False) -> Scores | None:
    """Returns the scores in a JSON object; None if one is missing or in doubt.

    They are keyed by answer (`answer_1`), in a list under `scores`, or under `score` for a single one. They may be
    nested in an object under `scores`; `inside` is True for that object.
    """
    if not isinstance(found, dict):
        return None
    keyed = [(plain_key(key), value) for key, value in found.items()]
    nested = [value for key, value in keyed if key in _LISTS and isinstance(value, dict)]
    if nested:
        return None if inside or len(nested) > 1 else of_json(nested[0], count, inside=True)
    if count == 1:
        scores = [value for key, value in keyed if key in _SINGLE]
        return in_range([json_score(scores[0])]) if len(scores) == 1 else None
    lists = [value for key, value in keyed if key in _LISTS and isinstance(value, list)]
    names = [(place, value) for key, value in keyed if (place := place_of(key)) is not None]
    if lists and not names:
        return in_range([json_score(value) for value in lists[0]]) if list(map(len, lists)) == [count] else None
    return None if lists else complete([(place, json_score(value)) for place, value in names], count)


def plain_key(key: str) -> str:
    """Returns a key in the one form that keys are compared in: `plain_key("Answer 1")  # "answer_1"`."""
    return re.sub(r"[\s\-]+", "_", key.strip().lower())


def place_of(key: str) -> int | None:
    """Returns the place of the answer that a `plain_key` names, from 0; None for another key."""
    name = _NAME_IN_JSON.fullmatch(key)
    return PLACES[name["name"]] if name else None


def json_score(value: Any) -> float | None:
    """Returns the score in a JSON value: a number from 1 to 10, or text such as "8/10"; None for any other."""
    # Judges also write "8/10" as a string.
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(?:" + NUMBER + r")\s*", value, re.A | re.I)
        return float(found[1]) if found else None
    # `true` is a bool, which is an int in Python.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and LOWEST <= value <= HIGHEST else None


def in_range(scores: Sequence[str | float | None]) -> Scores | None:
    """Returns the scores as numbers; None unless all are present and from 1 to 10."""
    found = tuple(float(score) for score in scores if score is not None)
    return found if len(found) == len(scores) and all(LOWEST <= score <= HIGHEST for score in found) else None


def complete(named: Sequence[tuple[int, float | None]], count: int) -> Scores | None:
    """Returns the scores in the order of their answers; None unless each answer has exactly one."""
    scores = dict(named)
    if len(named) != count or sorted(scores) != list(range(count)):
        return None
    return in_range([scores[place] for place in range(count)])
