"""Quotations in a judge's reply are told from the judge's own words."""

from __future__ import annotations

import time

import pytest

from tapir_ray.transforms.unquoted import BLOCK, CODE, FENCE, PLAIN, QUOTED, lines_of, quotes, without_thoughts
from tapir_ray.transforms.verdict import parse_scores


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("mine\n> theirs\nmine", [PLAIN, QUOTED, PLAIN]),
        ("mine\n```\nshown\n```", [PLAIN, FENCE, BLOCK, FENCE]),
        ("mine\n```\nshown\n```\nmine", [PLAIN, FENCE, QUOTED, FENCE, PLAIN]),
        ("~~~~\nshown\n```\nshown\n~~~~\nmine", [FENCE, QUOTED, QUOTED, QUOTED, FENCE, PLAIN]),
        ("mine\n```json\nnever closed", [PLAIN, FENCE, BLOCK]),
        ("```one line```\nmine", [CODE, PLAIN]),
        ("mine\n    indented\n`code`", [PLAIN, CODE, CODE]),
        ('it says "a\nb\nc" and so on', [PLAIN, QUOTED, QUOTED]),
        ('it is 5" tall\nmine', [PLAIN, PLAIN]),
        ("it says “a\nb” and\nmine", [PLAIN, QUOTED, PLAIN]),
    ],
)
def test_quotations_and_code_are_told_from_the_judges_own_words(text: str, kinds: list[str]) -> None:
    assert [line.kind for line in lines_of(text)] == kinds


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("b<think>a", "b"),
        ("<think>a<think>c</think>d</think>b", "b"),
        ("<thinking>a</thinking>b", "b"),
        ("[THINK]a[/THINK]b", "b"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "b"),
        ("b", "b"),
    ],
)
def test_thoughts_are_removed(text: str, left: str) -> None:
    assert without_thoughts(text).strip() == left


@pytest.mark.parametrize(
    ("lead", "is_quoting"),
    [
        ("Answer 2 ends with:", True),
        ("The second answer writes", True),
        ("For example:", True),
        ("Answer 2 ends with a claim.", False),
        ("Answer 2 adds nothing, so my scores are:", False),
        ("Final verdict:", False),
        ("", False),
    ],
)
def test_a_line_that_announces_a_quotation_is_recognised(lead: str, is_quoting: bool) -> None:
    assert quotes(lead) is is_quoting


@pytest.mark.parametrize("piece", ["<q>", "<think>", "it says ", '"\n', "```\nScores: 8 6\n", "Scores:\n", "{\n", "８"])
def test_a_repetitive_reply_is_parsed_within_seconds(piece: str) -> None:
    """A worker parses replies in its event loop, where a minute would block all its requests."""
    started = time.process_time()
    parse_scores("Scores: 8 6\n" + piece * (60_000 // len(piece)), 2)
    assert time.process_time() - started < 10
