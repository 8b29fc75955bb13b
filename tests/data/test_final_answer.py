"""Final answers: equal answers have equal keys, and a text in which none is marked is compared as a whole."""

from __future__ import annotations

import pytest

from tapir_ray.data.final_answer import answer_key, final_text


@pytest.mark.parametrize(
    ("text", "final"),
    [
        (r"So \boxed{\frac{1}{2}}.", r"\frac{1}{2}"), ("#### 6\nand\n#### 7 apples\nend", "7 apples"),
        (r"\boxed{1} or rather \boxed{2}", "2"), (r"\boxed{1} then" + "\n#### 3", "3"), (r"\boxed{open", None),
        ("The answer is blue.", "blue."), ("**Final answer:** 12", "12"), ("1 + 2 = 3 . answer : 3", "3"),
        ("Answer: 1\nAnswer: 2", "2"), ("It is 42", None), ("", None),
    ],
)  # fmt: skip
def test_the_last_marked_or_announced_place_is_the_final_answer(text: str, final: str | None) -> None:
    assert final_text(text) == final


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("42", "#### 42.0", True), ("$1,042$", r"\boxed{1042}", True), ("The answer is Blue.", "blue", True),
        ("A  red\nball", "a red ball!", True), ("42", "43", False), ("yes", "no", False), ("1.10", "1.1", True),
        ("-3", "3", False), ("1e400", "1e401", False),
    ],
)  # fmt: skip
def test_equal_answers_have_equal_keys(one: str, other: str, same: bool) -> None:
    assert (answer_key(one) == answer_key(other)) == same
