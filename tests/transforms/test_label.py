"""Labels by the teacher: only names of the list count."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.label import LabelRow, label, parse_label
from tests.llm.endpoint import Choice, Fault, running
from tests.transforms.asking import config_for, dataset, directly, instruction, opened

LABELS = ("Math", "Code Debug", "Common-Sense")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Math", "Math"),
        (" **code debug**.\n", "Code Debug"),
        ("common sense", "Common-Sense"),
        ("Code", None),
        ("Math or Code Debug", None),
        ("", None),
    ],
)
def test_a_label_is_recognised_but_never_guessed(text: str, expected: str | None) -> None:
    assert parse_label(text, LABELS) == expected


def teacher(body: dict[str, Any], attempt: int) -> str | Fault:
    prompt = body["messages"][0]["content"]
    assert "Code Debug" in prompt
    if "Unsure?" in prompt:
        return "I think this is poetry"
    return Fault(403) if "Forbidden?" in prompt else "code debug."


def test_rows_get_labels_or_reasons(ray_local: None) -> None:
    rows = [
        instruction("Why does it crash?", task=None),
        instruction("Unsure?", task=None),
        instruction("Forbidden?", task=None),
        instruction("A copy", status="filtered", reason="duplicate", task=None),
    ]
    with running(teacher) as seen:
        config = config_for(seen.url, classify={"by": "teacher", "label_attempts": 2})
        with opened(config) as roles:
            labelled = {
                row["messages"][0]["content"]: (row["task"], row["status"], row["reason"])
                for row in label(dataset(rows), config, roles, LABELS).take_all()
            }
            kinds = roles.usage_by_kind()["teacher"]
    assert labelled["Why does it crash?"] == ("Code Debug", "ok", None)
    assert labelled["Unsure?"] == (None, "failed", "unknown_label: I think this is poetry")
    assert labelled["Forbidden?"][1] == "failed" and labelled["Forbidden?"][2].startswith("PermissionDeniedError")
    assert labelled["A copy"] == (None, "filtered", "duplicate")
    assert list(kinds) == ["label"] and kinds["label"]["requests"] == len(seen.requests) == 4


def test_a_repeated_question_has_another_seed_and_a_temperature() -> None:
    """A greedy endpoint gives the same reply for every seed."""

    def greedy(body: dict[str, Any], attempt: int) -> str:
        seeds = {request["seed"] for request in seen.requests}
        return "Math" if len(seeds) > 1 and body["temperature"] > 0 else "?"

    with running(greedy) as seen:
        (row,) = directly(LabelRow(Prompts(), LABELS, 3), [instruction("2 + 2?")], config_for(seen.url))
    assert row["task"] == "Math" and [body["temperature"] for body in seen.requests] == [0.0, 0.7]


def test_a_truncated_label_is_asked_again() -> None:
    """`Code` may be the beginning of `Code Debug`."""
    labels = ("Code", "Code Debug")
    with running(
        lambda body, n: Choice("Code", "length") if body["temperature"] == 0 else Choice("Code Debug")
    ) as seen:
        (row,) = directly(LabelRow(Prompts(), labels, 3), [instruction("Why?")], config_for(seen.url))
    assert row["task"] == "Code Debug" and len(seen.requests) == 2
