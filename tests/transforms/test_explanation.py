"""Steps of explanations, and the teacher's replies on them."""

from __future__ import annotations

import pytest

from tapir_ray.config.elad import STEP_PATTERN
from tapir_ray.transforms.explanation import Revision, final_answers, joined, parse_revision, split_steps

LINES = "1. Add: 3 + 4 = 7.\n2. Then 7 - 2 = 6.\n\nThe answer is 6."
WORDS = "3 + 4 = 7 , 7 - 2 = 6 . answer : 6"
DEMO = " [,.] "


@pytest.mark.parametrize(
    ("text", "pattern", "steps"),
    [
        (LINES, STEP_PATTERN, ("1. Add: 3 + 4 = 7.", "2. Then 7 - 2 = 6.", "The answer is 6.")),
        ("3.5 apples cost 7. So one costs 2. Answer: 2.", STEP_PATTERN,
         ("3.5 apples cost 7.", "So one costs 2.", "Answer: 2.")),
        ("Step 1: Add. Step 2: Halve. So #### 5", STEP_PATTERN, ("Step 1: Add.", "Step 2: Halve.", "So #### 5")),
        ("It costs $7! So one costs two. Answer: 2. Really.", STEP_PATTERN,
         ("It costs $7!", "So one costs two.", "Answer: 2. Really.")),
        (WORDS, DEMO, ("3 + 4 = 7 ,", "7 - 2 = 6 .", "answer : 6")),
        ("ann > bob , bob > cal . answer : ann , bob , cal", DEMO,
         ("ann > bob ,", "bob > cal .", "answer : ann , bob , cal")),
        ("7", STEP_PATTERN, ("7",)),
        ("", STEP_PATTERN, ("",)),
        ("\n\nOnly one.\n", STEP_PATTERN, ("Only one.",)),
    ],
)  # fmt: skip
def test_steps_end_at_lines_and_sentences_and_the_final_answer_is_one_step(
    text: str, pattern: str, steps: tuple[str, ...]
) -> None:
    found = split_steps(text, pattern)
    assert found.steps == steps
    assert found.before(len(steps)) == text, "the steps are the whole text"


def test_a_prefix_is_the_text_of_its_steps_as_the_student_wrote_it() -> None:
    found = split_steps(WORDS, DEMO)
    assert [found.before(n) for n in (0, 1, 2)] == ["", "3 + 4 = 7 , ", "3 + 4 = 7 , 7 - 2 = 6 . "]
    assert found.prefixes(8) == [1, 2], "without the final answer"
    many = split_steps("a\nb\nc\nd\ne\nf", STEP_PATTERN)
    assert (many.prefixes(8), many.prefixes(2), many.prefixes(3)) == ([1, 2, 3, 4, 5], [2, 5], [1, 3, 5])


def test_a_continuation_follows_the_line_break_of_its_prefix() -> None:
    assert joined("a = 7.\n\n", " so 5") == "a = 7.\nso 5"
    assert joined("a , ", "b") == "a , b" and joined("", " b ") == "b"


def test_final_answers_of_continuations_are_compared_without_their_form() -> None:
    assert final_answers("3 + 4 = 7 , ", ["7 - 2 = 5 . answer : 5", "7 - 2 = 5.0 . answer: 5.0.", None, "none"]) == [
        "5", "5", None, "3 + 4 = 7 , none"
    ]  # fmt: skip
    assert final_answers("Seven\n", ["#### 1,042"]) == ["1042"], "a mark that has to begin a line"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("First faulty step: none", Revision(None, "", WORDS)),
        ("**First faulty step:** None.", Revision(None, "", WORDS)),
        ("First faulty step: 2\n<revision>\n7 - 2 = 5 . answer : 5\n</revision>",
         Revision(2, "7 - 2 = 5 . answer : 5", "3 + 4 = 7 , 7 - 2 = 5 . answer : 5")),
        ("I think so.\nfirst faulty step: 1\n<revision>answer : 5</revision>", Revision(1, "answer : 5", "answer : 5")),
        ("First faulty step: 4\n<revision>so</revision>", Revision(4, "so", f"{WORDS} so")),
        ("First faulty step: 5\n<revision>so</revision>", None),
        ("First faulty step: 0\n<revision>so</revision>", None),
        ("First faulty step: 2", None),
        ("First faulty step: 2\n<revision>\n</revision>", None),
        ("7 - 2 = 5", None),
    ],
)  # fmt: skip
def test_a_reply_keeps_the_steps_before_the_one_that_it_names(reply: str, expected: Revision | None) -> None:
    found = parse_revision(reply, split_steps(WORDS, DEMO))
    assert found == expected
    if found is not None:
        assert found.verdict == ("right" if found.first_faulty is None else "faulty")
