"""Wrong answers of the scenario tasks: as many as asked for, the same each time, and none by default."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import parse
from tapir_ray.errors import InputError
from tapir_ray.llm.engine.base import Setting
from tapir_ray.llm.engine.openai import OpenAI
from tapir_ray.simulator import write_seed
from tapir_ray.simulator.families import grade, understand
from tapir_ray.simulator.options import Options, flag
from tapir_ray.simulator.requests import STUDENT
from tapir_ray.simulator.seed import seed_rows
from tapir_ray.simulator.server import scenario_of
from tapir_ray.simulator.tasks import Tasks
from tests.simulator.asking import prompt, request, styled, user

ROWS = 1000


def digest(value: object) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


@pytest.fixture(scope="module")
def instructions() -> list[str]:
    return [str(row["instruction"]) for row in seed_rows(ROWS, 3)]


def answers(simulator: Tasks, instruction: str) -> list[str]:
    """Returns the plain answer, the styled one and the rewriting of `instruction`."""
    rewriting = prompt("rewrite", task="Math", style="s", instruction=instruction, answer="8")
    return [simulator.reply(request(messages)) for messages in (user(instruction), styled(instruction), rewriting)]


def replies(simulator: Tasks, instruction: str) -> list[str]:
    """Returns the three answers, an expansion, a student's attempt and a verdict."""
    expand = prompt("expand", task="Math", instruction=instruction)
    judge = prompt("judge_pairwise", instruction=instruction, answer_1="8", answer_2="a")
    others = [request(expand, seed=1), request(user(instruction), model=STUDENT), request(judge)]
    return [*answers(simulator, instruction), *(simulator.reply(one) for one in others)]


def test_without_the_options_all_outputs_are_those_of_earlier_versions(instructions: list[str]) -> None:
    rows = seed_rows(ROWS, 3)
    assert digest(rows) == "8105912c64530584" and "wrong" not in rows[0]
    simulator = Tasks(Options(seed=3))
    assert digest([replies(simulator, one) for one in instructions]) == "54dc130174d5522e"


def test_a_share_of_the_seed_rows_has_an_answer_to_another_problem(tmp_path: Path) -> None:
    right = seed_rows(ROWS, 3)
    rows: list[dict[str, Any]] = seed_rows(ROWS, 3, error_rate=0.2)
    assert [row["instruction"] for row in rows] == [row["instruction"] for row in right]
    wrong = [row for row in rows if row["wrong"]]
    # 200 expected, with a standard deviation of 12.6.
    assert 160 <= len(wrong) <= 240
    grades = {
        kind: [grade(row["instruction"], row["output"]) for row in rows if row["wrong"] == kind] for kind in (0, 1)
    }
    assert set(grades[0]) == {1.0} and max(grades[1]) < 1.0
    unchanged = [{**row, "wrong": False} for row in right]
    assert [row for row in rows if not row["wrong"]] == [
        row for row, other in zip(unchanged, rows, strict=True) if not other["wrong"]
    ]
    assert len(Counter(row["family"] for row in wrong)) == 10, "errors are in every family"
    assert 0.1 < sum(row["level"] > 2 for row in wrong) / len(wrong) < 0.4
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_seed(tmp_path / name, ROWS, seed, 0.2)
    first, again, other = ((tmp_path / name).read_text() for name in "abc")
    assert first == again != other
    assert [json.loads(line) for line in first.splitlines()] == rows
    assert all(row["wrong"] for row in seed_rows(100, 3, error_rate=1.0))


def test_the_teacher_is_wrong_about_the_same_instructions_in_every_form(instructions: list[str]) -> None:
    simulator, again = Tasks(Options(seed=3, teacher_error_rate=0.3)), Tasks(Options(seed=3, teacher_error_rate=0.3))
    wrong = set()
    for instruction in instructions:
        found = answers(simulator, instruction)
        assert found == answers(again, instruction)
        right = [grade(instruction, one) == 1.0 for one in found]
        assert len(set(right)) == 1, "wrong in one form and right in another"
        wrong |= set() if right[0] else {instruction}
    # 300 expected, with a standard deviation of 14.5.
    assert 250 <= len(wrong) <= 350
    other = Tasks(Options(seed=4, teacher_error_rate=0.3))
    elsewhere = {one for one in instructions if grade(one, answers(other, one)[0]) < 1.0}
    assert 250 <= len(elsewhere) <= 350 and 50 < len(wrong & elsewhere) < 140, "0.09 of 1,000 by both seeds"
    assert all(grade(one, answers(Tasks(Options(teacher_error_rate=1.0)), one)[0]) < 1.0 for one in instructions)


def test_a_wrong_answer_is_that_of_a_problem_of_the_same_family_and_level(instructions: list[str]) -> None:
    """So it has the right form, as a teacher's mistake has."""
    simulator = Tasks(Options(teacher_error_rate=1.0))
    for instruction in instructions[:200]:
        known = understand(instruction)
        assert known is not None
        if known[0].name == "arithmetic":
            plain, in_steps, _ = answers(simulator, instruction)
            assert plain.isdigit() and in_steps.endswith(f"answer : {plain}")
            assert in_steps.count("=") == known[1].level
    assert simulator.reply(request(user("Who wrote Faust?"))) == "i do not know ."


def test_judge_labels_expansions_and_students_are_exact(instructions: list[str]) -> None:
    """Only answers of the teacher are wrong: the judge gives them the low score that they deserve."""
    exact, wrong = Tasks(Options(seed=3)), Tasks(Options(seed=3, teacher_error_rate=1.0))
    for instruction in instructions[:200]:
        assert replies(exact, instruction)[3:] == replies(wrong, instruction)[3:]
        label = request(prompt("label", labels=["Math", "Writing", "Others"], instruction=instruction))
        assert exact.reply(label) == wrong.reply(label)
        given = wrong.reply(request(user(instruction)))
        verdict = wrong.reply(request(prompt("judge_pointwise", instruction=instruction, answer=given)))
        expected = round(2 * (1 + 9 * grade(instruction, given))) / 2
        assert verdict.splitlines()[-1] == f"Score: {expected:g}" and expected < 10


@pytest.mark.parametrize(("options", "says"), [
    ({"teacher_error_rate": 1.5}, "teacher_error_rate 1.5 must be from 0 to 1"),
    ({"scenario": "recorded", "path": "a.jsonl", "teacher_error_rate": 0.1}, "no effect without the scenario tasks"),
])  # fmt: skip
def test_a_rate_without_a_meaning_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        scenario_of(Options(**options))
    assert flag("teacher_error_rate") == "--teacher-error-rate"


def test_cached_replies_of_another_error_rate_are_not_used() -> None:
    """A fork copies the cache. At the default the keys are those of earlier versions."""

    def scope(**simulator: Any) -> str:
        teacher = {"model": "t", "base_url": "simulator"}
        config = parse(
            {"name": "x", "student": {"model": "m"}, "teacher": teacher, "simulator": {"seed_rows": 10, **simulator}}
        )
        return OpenAI(Setting("teacher", config.teacher, config, "run", None, "http://127.0.0.1:1/v1")).scope()

    assert 'error_rate": 0.0' in scope() and "teacher_error_rate" not in scope()
    assert scope(seed_error_rate=0.5) == scope() != scope(teacher_error_rate=0.1)
