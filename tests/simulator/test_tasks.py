"""Scenario tasks: every kind of request, replies without state, and the judge's configured faults."""

from __future__ import annotations

import re
from statistics import mean, stdev

import pytest

from tapir_ray.simulator.families import FAMILIES, grade, understand
from tapir_ray.simulator.options import Options
from tapir_ray.simulator.requests import ANSWER, EXPAND, LABEL, PAIRWISE, POINTWISE, REWRITE, STYLED
from tapir_ray.simulator.tasks import Tasks
from tapir_ray.transforms.expand import OPERATIONS, parse_instruction
from tests.simulator.asking import instruction_of, prompt, request, styled, user

MATH = "tom has 7 pens , finds 3 , loses 2 . how many pens now ?"
NOTE = "write a note from tom to mia : hat red , cup blue ."
GOOD, FAIR, POOR = (
    "dear mia , the hat is red and the cup is blue . tom",
    "dear mia , the hat is red . tom",
    "the hat is red",
)


def pairwise(simulator: Tasks, instruction: str, one: str, two: str, **values: object) -> tuple[float, float]:
    messages = prompt("judge_pairwise", instruction=instruction, answer_1=one, answer_2=two)
    last = simulator.reply(request(messages, **values)).splitlines()[-1]
    match = re.fullmatch(r"Scores: (\S+) (\S+)", last)
    assert match is not None
    return float(match.group(1)), float(match.group(2))


def test_each_prompt_is_recognised() -> None:
    kinds = {
        ANSWER: user(MATH),
        STYLED: styled(MATH),
        LABEL: prompt("label", labels=["Math", "Others"], instruction=MATH),
        EXPAND: prompt("expand", task="Math", instruction=MATH),
        REWRITE: prompt("rewrite", task="Math", style="s", instruction=MATH, answer="8"),
        PAIRWISE: prompt("judge_pairwise", instruction=MATH, answer_1="8", answer_2=""),
        POINTWISE: prompt("judge_pointwise", instruction=MATH, answer="8"),
    }
    assert {kind: request(messages).kind for kind, messages in kinds.items()} == {kind: kind for kind in kinds}


def test_other_prompts_of_an_expansion_are_expansions() -> None:
    texts = {"answer": "8", "student_answer": "7", "reasons": "The sum is wrong.", "level": "harder"}
    for messages in (
        prompt("evolve", task="Math", instruction=MATH, operation="add a step."),
        prompt("feedback", task="Math", instruction=MATH, **texts),
    ):
        asked = request(messages)
        assert (asked.kind, asked.parts["task"], asked.parts["instruction"]) == (EXPAND, "Math", MATH)


def levels(messages: list[dict[str, str]]) -> set[int]:
    """Levels of 40 expansions of a prompt, at different random seeds."""
    found = set()
    for seed in range(40):
        text, problem = parse_instruction(Tasks(Options(seed=seed)).reply(request(messages)))
        known = understand(text or "")
        assert problem is None and known is not None and known[0].label == "Math"
        found.add(known[1].level)
    return found


def test_an_evolved_instruction_is_harder_if_the_operation_adds_to_it() -> None:
    """MATH has two steps, so it is of level 2. Any other reading would make `evolve` a copy of `like`."""
    asked = {name: prompt("evolve", task="Math", instruction=MATH, operation=what) for name, what in OPERATIONS.items()}
    assert {name: levels(messages) for name, messages in asked.items()} == {
        "constraint": {3}, "deepen": {3}, "concretise": {2}, "reasoning": {3}, "breadth": {2},
    }  # fmt: skip
    assert levels(prompt("expand", task="Math", instruction=MATH)) == {2, 3}


def test_an_instruction_by_feedback_is_easier_or_harder_as_asked() -> None:
    spoofed = "- It is short, and is harder than the instruction below."
    for level, expected in (("easier", {1}), ("harder", {3})):
        texts = {"answer": "8", "student_answer": spoofed, "reasons": "The sum is wrong.", "level": level}
        messages = prompt("feedback", task="Math", instruction=MATH, **texts)
        assert levels(messages) == expected
        assert Tasks(Options()).reply(request(messages)).startswith("The student needs practice in Math. <new_")


def test_a_whole_conversation_is_never_read_as_a_prompt() -> None:
    turns = [*user("What does <instruction> mean?"), {"role": "assistant", "content": "A tag."}, *user(MATH)]
    assert request(turns).kind == ANSWER
    assert Tasks(Options()).reply(request(turns)) == "8"


def test_answers_follow_the_prompt() -> None:
    simulator = Tasks(Options())
    assert simulator.reply(request(user(MATH))) == "8"
    assert simulator.reply(request(styled(MATH))) == "7 + 3 = 10 , 10 - 2 = 8 . answer : 8"
    rewrite = prompt("rewrite", task="Math", style="In steps.", instruction=MATH, answer="9")
    assert simulator.reply(request(rewrite)) == "7 + 3 = 10 , 10 - 2 = 8 . answer : 8"
    assert simulator.reply(request(user("Who wrote Faust?"))) == "i do not know ."


@pytest.mark.parametrize(
    ("instruction", "labels", "expected"),
    [
        (MATH, ["Writing", "Math", "Others"], "Math"),
        (MATH, ["Writing", "Others", "Law"], "Others"),
        ("Who wrote Faust?", ["Others", "Math"], "Others"),
        ("Who wrote Faust?", ["Math", "Writing"], "Writing"),
    ],
)
def test_a_label_is_chosen_from_the_given_ones(instruction: str, labels: list[str], expected: str) -> None:
    assert Tasks(Options()).reply(request(prompt("label", labels=labels, instruction=instruction))) == expected


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_expansions_keep_the_family_and_never_get_easier(family) -> None:  # type: ignore[no-untyped-def]
    simulator = Tasks(Options())
    for level in (1, 3, 5):
        parent = instruction_of(family.name, level)
        messages = prompt("expand", task=family.label, instruction=parent)
        written = set()
        for seed in range(40):
            match = re.fullmatch(
                r"<new_instruction>(.+)</new_instruction>", simulator.reply(request(messages, seed=seed))
            )
            assert match is not None and match.group(1) != parent
            known = understand(match.group(1))
            assert known is not None and known[0] is family
            assert level <= known[1].level <= min(level + 1, 5)
            written.add(match.group(1))
        assert len(written) >= 38 or level == 1


def test_an_instruction_like_several_is_one_like_the_first() -> None:
    """NOTE is of another family than MATH, whose new problems the simulator understands as problems of its label."""
    simulator = Tasks(Options())
    for first, other in ((MATH, NOTE), (NOTE, MATH)):
        seen = request(prompt("expand_examples", task="Math", instructions=[first, other, first]))
        assert (seen.kind, seen.parts["instruction"]) == ("expand", first)
        new = simulator.reply(seen).removeprefix("<new_instruction>").removesuffix("</new_instruction>")
        known, of_first = understand(new), understand(first)
        assert known is not None and of_first is not None and known[0] is of_first[0] and new != first


def test_an_unknown_instruction_expands_to_nothing_and_gets_the_lowest_scores() -> None:
    simulator = Tasks(Options())
    expand = prompt("expand", task="Others", instruction="Who wrote Faust?")
    assert simulator.reply(request(expand)) == "<new_instruction></new_instruction>"
    assert pairwise(simulator, "Who wrote Faust?", "Goethe.", "i do not know .") == (1.0, 1.0)


def test_replies_depend_only_on_request_and_seed() -> None:
    expand = prompt("expand", task="Math", instruction=MATH)
    one, again, other = Tasks(Options()), Tasks(Options()), Tasks(Options(seed=1))
    replies = [one.reply(request(expand, seed=seed)) for seed in range(20)]
    assert replies == [again.reply(request(expand, seed=seed)) for seed in reversed(range(20))][::-1]
    assert replies != [other.reply(request(expand, seed=seed)) for seed in range(20)]
    assert one.reply(request(expand, seed=3, temperature=0.0)) != one.reply(request(expand, seed=3, temperature=1.0))
    noisy, same = Tasks(Options(judge_noise=1.0)), Tasks(Options(judge_noise=1.0))
    assert [pairwise(noisy, NOTE, GOOD, FAIR, seed=s) for s in range(9)] == [
        pairwise(same, NOTE, GOOD, FAIR, seed=s) for s in range(9)
    ]


def test_scores_follow_the_grade_and_not_the_style() -> None:
    simulator = Tasks(Options())
    assert pairwise(simulator, MATH, "8", "7 + 3 = 10 , 10 - 2 = 8 . answer : 8") == (10.0, 10.0)
    assert pairwise(simulator, MATH, "", "9") == (1.0, 1.0)
    for answer in (GOOD, FAIR, POOR):
        expected = round(2 * (1 + 9 * grade(NOTE, answer))) / 2
        assert pairwise(simulator, NOTE, GOOD, answer) == (10.0, expected)
        reply = simulator.reply(request(prompt("judge_pointwise", instruction=NOTE, answer=answer)))
        assert reply.splitlines()[-1] == f"Score: {expected:g}"
        assert len(reply.splitlines()) == 2


def test_both_orders_remove_the_position_bias_and_one_order_does_not() -> None:
    fair, biased = Tasks(Options()), Tasks(Options(position_bias=1.5))
    truth = pairwise(fair, NOTE, FAIR, POOR)
    one, two = pairwise(biased, NOTE, FAIR, POOR), pairwise(biased, NOTE, POOR, FAIR)
    assert one[0] - one[1] == truth[0] - truth[1] + 1.5
    assert mean([one[0], two[1]]) - mean([one[1], two[0]]) == truth[0] - truth[1]
    assert pairwise(biased, NOTE, FAIR, FAIR)[0] > pairwise(biased, NOTE, FAIR, FAIR)[1]


def test_judge_noise_has_the_configured_spread_and_changes_with_the_seed() -> None:
    simulator = Tasks(Options(judge_noise=0.8))
    truth = 1 + 9 * grade(NOTE, FAIR)
    given = [pairwise(simulator, NOTE, FAIR, POOR, seed=seed)[0] for seed in range(400)]
    assert mean(given) == pytest.approx(truth, abs=0.2)
    assert stdev(given) == pytest.approx(0.8, abs=0.15)


def test_length_bias_raises_the_score_of_longer_answers() -> None:
    simulator = Tasks(Options(length_bias=2.0))
    long = FAIR.replace("red .", "red . " + "so " * 100 + ".")
    plain, padded = pairwise(simulator, NOTE, FAIR, long)
    assert grade(NOTE, long) == grade(NOTE, FAIR)
    assert 1.5 <= padded - plain <= 2.5


def test_an_answer_with_tags_of_its_own_is_judged_as_one_answer() -> None:
    odd = "dear mia , <answer>\nthe hat is red\n</answer> . tom"
    assert pairwise(Tasks(Options()), NOTE, odd, GOOD)[1] == 10.0
