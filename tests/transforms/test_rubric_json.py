"""Marks in a judge's reply: read from JSON with and without a schema, and None for every doubt."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.transforms.rubric_json import parse_marks, rubric_form, rubric_format

NAMES = ("accuracy", "clarity")
BOTH = '{"reasoning": "Fine.", "answer_1": {"accuracy": 9, "clarity": 6}, "answer_2": {"accuracy": 4, "clarity": 7.5}}'
MARKS = ({"accuracy": 9.0, "clarity": 6.0}, {"accuracy": 4.0, "clarity": 7.5})
INDENTED = json.dumps(json.loads(BOTH), indent=2)
OTHER = BOTH.replace("9", "1")


@pytest.mark.parametrize(
    "text",
    [
        BOTH,
        INDENTED,
        f"```json\n{INDENTED}\n```",
        f"Answer 1 is better.\n\n{BOTH}\n",
        f"<think>{OTHER}</think>\n{BOTH}",
        f"<answer>{BOTH}</answer>",
        f"{BOTH}\n{BOTH}",
        BOTH.replace('"accuracy": 9', '"Accuracy": "9/10"').replace("answer_2", "Answer 2"),
        BOTH.replace('"clarity": 6', '"clarity": 6, "style": 2'),
        '{"scores": {"answer_1": {"accuracy": 9, "clarity": 6}, "answer_2": {"accuracy": 4, "clarity": 7.5}}}',
        BOTH.replace("Fine.", '{\\"answer_1\\": 1} \\n{'),
    ],
)
def test_the_marks_of_a_reply_are_read(text: str) -> None:
    assert parse_marks(text, NAMES, 2) == MARKS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Scores: 9 4",
        BOTH[:-1],
        BOTH.replace('"accuracy": 4, ', ""),
        BOTH.replace("7.5", "11"),
        BOTH.replace("7.5", "true"),
        BOTH.replace("7.5", "NaN"),
        BOTH.replace('"clarity": 6', '"clarity": 6, "clarity": 7'),
        BOTH.replace('"clarity": 6', '"clarity": 6, "Clarity": 7'),
        BOTH.replace("answer_2", "answer_1"),
        BOTH.replace('"answer_1"', '"assistant_1": {"accuracy": 1, "clarity": 1}, "answer_1"'),
        f"{OTHER}\n{BOTH}",
        f"{BOTH}\nWait, I swapped the answers.",
        f"Answer 1 ends with:\n{BOTH}",
        f"Answer 1 ends with:\n```json\n{BOTH}\n```",
        f"Answer 1 says {BOTH}",
        f"> {BOTH}",
    ],
)
def test_a_doubtful_reply_has_no_marks(text: str) -> None:
    assert parse_marks(text, NAMES, 2) is None


@pytest.mark.parametrize(
    "text", ['{"reasoning": "Fine.", "answer": {"accuracy": 9, "clarity": 6}}', '{"accuracy": 9, "clarity": 6}']
)
def test_the_marks_of_one_answer_are_read(text: str) -> None:
    assert parse_marks(text, NAMES, 1) == MARKS[:1]
    assert parse_marks(text.replace("6", "0"), NAMES, 1) is None


@given(st.text(max_size=200))
def test_no_text_raises_or_gives_marks_outside_the_scale(text: str) -> None:
    for shown in (text, f"{{{text}", f'{{"answer": {text}}}'):
        found = parse_marks(shown, NAMES, 1)
        assert found is None or all(1 <= mark <= 10 for mark in found[0].values())


def test_a_reply_that_follows_the_schema_or_the_form_is_read() -> None:
    for count in (1, 2):
        schema = rubric_format(NAMES, count)["json_schema"]["schema"]
        answers = schema["required"][1:]
        reply = {
            "reasoning": "x",
            **{name: dict.fromkeys(schema["properties"][name]["required"], 7) for name in answers},
        }
        assert parse_marks(json.dumps(reply), NAMES, count) == (dict.fromkeys(NAMES, 7.0),) * count
        shown = rubric_form(NAMES, count).replace("<number>", "7")
        assert parse_marks(shown, NAMES, count) == (dict.fromkeys(NAMES, 7.0),) * count
        assert parse_marks(rubric_form(NAMES, count), NAMES, count) is None, "the form itself is no verdict"
