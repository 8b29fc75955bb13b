"""Marks of a rubric in JSON: the schema that a judge is asked to follow, its form in a prompt, and the parser.

    rubric_format(("accuracy", "clarity"), 2)                        # response_format of a request
    parse_marks('{"answer": {"accuracy": 8}}', ("accuracy",), 1)     # ({"accuracy": 8.0},)

A reply is read whether or not a schema was sent. A doubtful one has no marks, and the judge is asked again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tapir_ray.transforms.scores_json import HIGHEST, LOWEST, decoder, json_score, place_of, plain_key
from tapir_ray.transforms.unquoted import quotes, without_thoughts

Marks = dict[str, float]
"""Score of an answer by criterion, each from 1 to 10."""
_BEGIN = re.compile(r"^[ \t*_]*(?:<answer>)?\s*(?=\{)", re.MULTILINE)
"""Place of a JSON object that begins a line; one in the middle of a sentence is quoted."""
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})")
_NESTED = ("scores", "ratings", "verdict")
_OF_ONE = ("answer", "answer_1", "score", *_NESTED)


def rubric_format(names: Sequence[str], count: int) -> dict[str, Any]:
    """Returns the `response_format` of a reply: the reasoning, then whole numbers from 1 to 10 for each answer."""
    mark = {"type": "integer", "enum": list(range(int(LOWEST), int(HIGHEST) + 1))}
    of_answer = _object(dict.fromkeys(names, mark))
    schema = _object({"reasoning": {"type": "string"}, **dict.fromkeys(_answers(count), of_answer)})
    return {"type": "json_schema", "json_schema": {"name": "rubric", "strict": True, "schema": schema}}


def rubric_form(names: Sequence[str], count: int) -> str:
    """Returns the form of the reply for a prompt: `{"reasoning": "...", "answer": {"accuracy": <number>}}`."""
    marks = ", ".join(f'"{name}": <number>' for name in names)
    answers = ", ".join(f'"{answer}": {{{marks}}}' for answer in _answers(count))
    return f'{{"reasoning": "...", {answers}}}'


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _answers(count: int) -> list[str]:
    return ["answer"] if count == 1 else [f"answer_{number}" for number in range(1, count + 1)]


def parse_marks(text: str, names: Sequence[str], count: int) -> tuple[Marks, ...] | None:
    """Returns the marks of `count` (1 or 2) answers by criterion, in the order of the answers; None if in doubt.

    The marks are in a JSON object that begins a line and ends the reply, bare or in a code block. In doubt are a
    missing criterion or answer, a mark outside 1 to 10, a repeated key, two objects that disagree, text after the last
    one, and one that the line before announces as a quotation. Thoughts (`<think>`) are no part of a reply.
    """
    shown = without_thoughts(text)
    objects = _objects(shown)
    found = [(marks, begin, end) for value, begin, end in objects or [] if (marks := _marks(value, names, count))]
    if not found:
        return None
    last, begin, end = found[-1]
    if any(marks != last for marks, _, _ in found) or re.search(r"\w", shown[end:].replace("</answer>", "")):
        return None
    return None if _is_quoted(shown[:begin]) else last


def _objects(text: str) -> list[tuple[Any, int, int]] | None:
    """Returns (value, begin, end) of each JSON object that begins a line; None if one of them cannot be read."""
    found: list[tuple[Any, int, int]] = []
    end = 0
    while (place := _BEGIN.search(text, end)) is not None:
        try:
            value, end = decoder().raw_decode(text, place.end())
        except (ValueError, RecursionError):
            return None
        found.append((value, place.end(), end))
    return found


def _marks(found: dict[str, Any], names: Sequence[str], count: int) -> tuple[Marks, ...] | None:
    """Returns the marks of all answers in an object, which may have them under `scores`; None unless complete."""
    keyed = _keyed(found)
    nested = [value for key, value in keyed if key in _NESTED and isinstance(value, dict)]
    if count == 1:
        of_one = [value for key, value in keyed if key in _OF_ONE and isinstance(value, dict)]
        marks = [_of_answer(one, names) for one in (of_one or [found])]
        return (marks[0],) if len(marks) == 1 and marks[0] is not None else None
    if nested:
        keyed = _keyed(nested[0]) if len(nested) == 1 else []
    by_place: dict[int, Marks | None] = {}
    for key, value in keyed:
        place = place_of(key)
        if place is not None:
            # Two names of one answer (`answer_1`, `assistant_1`) leave open which counts.
            by_place[place] = None if place in by_place else _of_answer(value, names)
    marks = [by_place.get(place) for place in range(count)]
    complete = tuple(one for one in marks if one is not None)
    return complete if len(complete) == count else None


def _of_answer(found: Any, names: Sequence[str]) -> Marks | None:
    """Returns the marks of one answer; None unless each criterion has exactly one. Other keys do not count."""
    if not isinstance(found, dict):
        return None
    given = [(key, json_score(value)) for key, value in _keyed(found) if key in names]
    marks = {key: mark for key, mark in given if mark is not None}
    return {name: marks[name] for name in names} if len(given) == len(marks) == len(names) else None


def _keyed(found: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(plain_key(key), value) for key, value in found.items()]


def _is_quoted(above: str) -> bool:
    """Returns True if the last line above an object, except the edge of a code block, announces a quotation."""
    lines = [line for line in above.splitlines() if line.strip() and not _FENCE.match(line)]
    return bool(lines) and quotes(lines[-1].strip())
