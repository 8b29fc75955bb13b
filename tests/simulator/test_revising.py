"""The simulated teacher finds the first wrong step of the families with steps, and corrects from there."""

from __future__ import annotations

import random

import pytest

from tapir_ray.config.elad import STEP_PATTERN
from tapir_ray.llm.prompts import Prompts
from tapir_ray.simulator import Options
from tapir_ray.simulator.families import FAMILIES, grade, understand
from tapir_ray.simulator.requests import REVISE, read
from tapir_ray.simulator.revising import NONE, revision
from tapir_ray.simulator.tasks import Tasks
from tapir_ray.transforms.explanation import parse_revision, split_steps

WITH_STEPS = ("arithmetic", "ordering", "counterfactual")
SUM = "count the hats of ana : first 3 , finds 4 , loses 2 ."
ORDER = "ana is taller than ben , mia is shorter than ben . list them from tallest to shortest ."
WORLD = "suppose red turns blue , then blue turns green . what color is the red hat of ana then ?"


def faulty(step: int, text: str) -> str:
    return f"First faulty step: {step}\n<revision>\n{text}\n</revision>"


@pytest.mark.parametrize(
    ("instruction", "steps", "reply"),
    [
        (SUM, ["3 + 4 = 7 ,", "7 - 2 = 5 .", "answer : 5"], NONE),
        (SUM, ["answer : 5"], NONE),
        (SUM, ["5"], NONE),
        (SUM, ["3 + 4 = 7 ,", "7 - 2 = 6 .", "answer : 6"], faulty(2, "7 - 2 = 5 . answer : 5")),
        (SUM, ["3 + 4 = 8 ,", "8 - 2 = 6 .", "answer : 6"], faulty(1, "3 + 4 = 7 , 7 - 2 = 5 . answer : 5")),
        (SUM, ["3 + 4 = 7 ,", "7 - 2 = 5 .", "answer : 6"], faulty(3, "answer : 5")),
        (SUM, ["3 + 4 = 7 ,", "7 - 2 = 5"], faulty(3, "answer : 5")),
    ],
)
def test_the_first_wrong_step_of_a_sum_is_found(instruction: str, steps: list[str], reply: str) -> None:
    assert understand(instruction) is not None
    assert revision(instruction, "\n".join(f"{n}. {step}" for n, step in enumerate(steps, 1))) == reply


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.name in WITH_STEPS])
@pytest.mark.parametrize("level", [1, 3, 5])
def test_a_spoilt_step_of_a_family_is_found_and_its_revision_is_right(family: object, level: int) -> None:
    rng, prompts, teacher = random.Random(level), Prompts(), Tasks(Options())
    for _ in range(20):
        instruction = family.generate(level, rng)  # type: ignore[attr-defined]
        problem = family.parse(instruction)  # type: ignore[attr-defined]
        steps = family.steps(problem)  # type: ignore[attr-defined]
        assert family.styled(problem) == " , ".join(steps[:-1]) + " . " + steps[-1]  # type: ignore[attr-defined]
        place = rng.randrange(len(steps))
        text = " , ".join([*steps[:place], "wrong"]) if place else "wrong"
        explanation = split_steps(text, " [,.] ")
        body = {"model": "m", "messages": [{"role": "user", "content": prompts.render(
            "revise", instruction=instruction, steps=explanation.steps)}]}  # fmt: skip
        request = read(body)
        assert request.kind == REVISE
        found = parse_revision(teacher.reply(request), explanation)
        assert found is not None and found.first_faulty == place + 1
        assert grade(instruction, found.text) == 1.0, (instruction, text, found)


def test_comparisons_may_be_told_in_any_order() -> None:
    known = understand(ORDER)
    assert known is not None
    first, second, last = known[0].steps(known[1])
    told = f"1. {second} ,\n2. {first} .\n3. {last}"
    assert revision(ORDER, told) == NONE
    assert revision(ORDER, f"1. {second} ,\n2. {second} .\n3. {last}") == faulty(2, f"{first} . {last}")


def test_a_family_without_steps_is_judged_as_a_whole() -> None:
    family = next(one for one in FAMILIES if one.name == "grammar")
    instruction = family.generate(2, random.Random(0))
    right = family.plain(family.parse(instruction))
    assert revision(instruction, f"1. {right}") == NONE
    assert revision(instruction, "1. wrong") == faulty(1, family.styled(family.parse(instruction)))
    assert revision("who are you ?", "1. me").startswith("First faulty step: 1\n")


def test_a_share_of_the_revisions_is_wrong_if_asked_for() -> None:
    family, rng, prompts = FAMILIES[0], random.Random(1), Prompts()
    teacher, wrong = Tasks(Options(revision_error_rate=0.5)), 0
    for _ in range(60):
        instruction = family.generate(3, rng)
        explanation = split_steps(family.styled(family.parse(instruction)), " [,.] ")
        text = prompts.render("revise", instruction=instruction, steps=explanation.steps)
        reply = teacher.reply(read({"model": "m", "messages": [{"role": "user", "content": text}]}))
        found = parse_revision(reply, explanation)
        assert found is not None
        wrong += grade(instruction, found.text) < 1.0
    assert 18 <= wrong <= 42, "binomial, 60 of 0.5"


def test_the_prompt_shows_the_steps_numbered() -> None:
    steps = split_steps("Three and four are seven.\nThe answer is 7.", STEP_PATTERN).steps
    text = Prompts().render("revise", instruction="3 + 4 ?", steps=steps)
    assert "1. Three and four are seven.\n2. The answer is 7.\n</steps" in text
