"""The scoring step with measures of this file: it makes only the columns that a measure needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tapir_ray.config import CreateModel
from tapir_ray.curriculum.measures import Column, measure
from tapir_ray.curriculum.plan import make_plan
from tapir_ray.curriculum.stats import score_stats
from tapir_ray.data.schemas import HOLDOUT, INSTRUCTIONS, SEED, conform, instruction_id
from tapir_ray.llm.roles import Roles
from tapir_ray.run.manifest import MANIFEST
from tapir_ray.run.resume import unpublish
from tapir_ray.steps import evaluate, score
from tapir_ray.steps.context import Context
from tapir_ray.train.create_student import create_student
from tests.llm.endpoint import Endpoint, running
from tests.steps.contexts import context_for, rows_of, write

ROWS, HELD = 12, 4
HERE = "tests.steps.test_score"


@measure(answers=True)
def answer_length(rows: pa.Table) -> Column:
    return pc.utf8_length(rows["student_response"])


@measure(samples=3, columns=[pa.field("different_answers", pa.int64())])
def disagreement(rows: pa.Table) -> pa.Table:
    """Counts the distinct sampled answers."""
    different = [None if texts is None else len(set(texts)) for texts in rows["student_samples"].to_pylist()]
    found = pa.array(different, pa.int64())
    place = rows.column_names.index("difficulty")
    return rows.append_column("different_answers", found).set_column(place, "difficulty", found)


@measure()
def question_length(rows: pa.Table) -> Column:
    return pa.array([len(messages[-1]["content"]) for messages in rows["messages"].to_pylist()], pa.int64())


def run_of(folder: Path, model: str, name: str, select: str = "hard", **sections: Any) -> Context:
    """Returns a run of one round with labelled seed data, HELD rows of it in the holdout, and an untrained student."""
    seed = write(folder / "seed.jsonl", [{"instruction": "q", "output": "a"}])
    difficulty = {"measure": f"{HERE}:{name}", **({"threshold": 1.0} if select == "hard" else {"select": select})}
    curriculum = {"rounds": 1, "tasks": "seed", "difficulty": difficulty}
    resources = {"transform_cpus": 0.1, "student": {"cpus": 1}}
    student = {"model": model, "max_model_len": 64, "sampling": {"max_tokens": 8}, **sections.pop("student", {})}
    sections = {"student": student, "curriculum": curriculum, "resources": resources, **sections}
    context = context_for(folder, seed, train={"sequence_length": 64}, **sections)
    rows = []
    for number in range(ROWS):
        messages = [{"role": "user", "content": "What is two plus " + "two " * number}]
        row = {"instruction_id": instruction_id(messages), "messages": messages, "response": f"it is {number}"}
        rows.append({**row, "split": HOLDOUT if number < HELD else SEED, "task": "Math", "status": "ok"})
    context.run.write_rows(context.loop.instructions, conform(rows, INSTRUCTIONS))
    context.run.publish(context.loop.checkpoint(0), extra={"model": model})
    context.taxonomy = context.taxonomy.with_seed_counts({"Math": ROWS})
    return context


def scored(context: Context) -> list[dict[str, Any]]:
    score.score(context, 1)
    table = context.loop.round(1).scored
    rows = rows_of(context, table)
    assert len(rows) == ROWS and {row["status"] for row in rows} == {"ok"}, [row["reason"] for row in rows]
    for name in ("teacher_score", "student_score", "scored_by", "repeat_mfd", "position_gap"):
        assert {row[name] for row in rows} == {None}, "nothing was judged"
    stats = score_stats(context.map(context.read(table), score.without_holdout), 4.0)
    assert (stats.reliable, stats.unreliable, stats.noise) == (ROWS - HELD, 0, None)
    return rows


def behind_an_endpoint(seen: Endpoint) -> dict[str, Any]:
    return {"engine": "openai", "endpoint": {"model": "s", "base_url": seen.url, "api_key_env": None}}


def test_a_measure_of_answers_asks_only_the_student(ray_local: None, tmp_path: Path) -> None:
    """Nothing listens on the port of teacher and judge."""
    with running(lambda body, attempt: "four " * len(body["messages"][0]["content"].split())) as seen:
        context = run_of(tmp_path, "m", "answer_length", student=behind_an_endpoint(seen))
        with Roles(context.config, context.run.run_id) as roles:
            context.roles = roles
            rows = scored(context)
            assert set(roles.usage()) == {"teacher", "student"} and roles.usage()["teacher"]["requests"] == 0
    assert len(seen.requests) == ROWS and {body["model"] for body in seen.requests} == {"s"}
    assert all(row["difficulty"] == len(row["student_response"]) == row["student_response_chars"] for row in rows)
    assert {row["response_chars"] for row in rows} == {len("it is 7"), len("it is 10")}


def test_a_student_behind_an_endpoint_is_asked_for_samples(ray_local: None, tmp_path: Path) -> None:
    with running(lambda body, attempt: f"{body['seed'] if body['temperature'] else 'greedy'}") as seen:
        context = run_of(tmp_path, "m", "disagreement", student=behind_an_endpoint(seen))
        with Roles(context.config, context.run.run_id) as roles:
            context.roles = roles
            rows = scored(context)
    assert len(seen.requests) == ROWS + 3 * (ROWS - HELD)
    for row in rows:
        assert row["student_response"] == "greedy"
        assert row["different_answers"] == row["difficulty"] == (None if row["split"] == HOLDOUT else 3)


def test_a_measure_of_the_rows_alone_asks_nothing_and_starts_no_engine(ray_local: None, tmp_path: Path) -> None:
    context = run_of(tmp_path, "m", "question_length")
    rows = scored(context)
    assert all(row["difficulty"] == len(row["messages"][0]["content"]) for row in rows)
    assert {row["student_response"] for row in rows} == {None}


def test_without_a_selection_only_the_holdout_is_answered_and_a_stop_asks_nothing_twice(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start dies between the answers of the holdout and the table of all candidates."""
    with running(lambda body, attempt: "four") as seen:
        student = behind_an_endpoint(seen)
        context = run_of(tmp_path, "m", "answer_length", "none", student=student, cache={"enabled": False})
        table = context.loop.round(1).scored
        with Roles(context.config, context.run.run_id) as roles:
            context.roles = roles
            with monkeypatch.context() as dying:
                dying.setattr(score, "_with_holdout", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    score.score(context, 1)
            assert len(seen.requests) == HELD and context.run.done(table) is None
            score.score(context, 1)
    assert len(seen.requests) == HELD
    assert not context.run.exists(f"{table}-held"), "the working table is deleted"
    rows = rows_of(context, table)
    assert len(rows) == len({row["instruction_id"] for row in rows}) == ROWS
    assert {row["status"] for row in rows} == {"ok"}
    for row in rows:
        held = row["split"] == HOLDOUT
        assert (row["student_response"], row["difficulty"]) == (("four", 4.0) if held else (None, None))
        assert row["times_trained"] == 0
    stats = score_stats(context.map(context.read(table), score.without_holdout), 4.0)
    assert (stats.usable, stats.reliable) == ({"Math": ROWS - HELD}, 0)
    made = make_plan(1, stats, context.config, context.taxonomy)
    assert (made.hard, made.alpha, made.unseen) == (ROWS - HELD, 1.0, ROWS - HELD)

    unpublished = context.run.manifest(table).files
    unpublish(context.run.path(table.path), context.run.fs, unpublished, table.key, MANIFEST)
    with Roles(context.config, context.run.run_id) as roles:
        context.roles = roles
        score.score(context, 1)
    assert sorted(map(str, rows_of(context, table))) == sorted(map(str, rows)), "a retry keeps rows that did not fail"


def test_without_a_selection_and_a_holdout_nothing_is_asked(ray_local: None, tmp_path: Path) -> None:
    """Nothing listens on the port of teacher and judge, and no engine starts."""
    context = run_of(tmp_path, "m", "answer_length", "none")
    rows = [row for row in rows_of(context, context.loop.instructions) if row["split"] == SEED]
    context.run.write_rows(context.loop.instructions, conform(rows, INSTRUCTIONS))
    score.score(context, 1)
    assert len(rows_of(context, context.loop.round(1).scored)) == ROWS - HELD


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_local_student_gives_answers_and_samples_in_one_pass(ray_local: None, tmp_path: Path) -> None:
    """The roles are not even opened: a request to teacher or judge would raise."""
    model, create = str(tmp_path / "student"), CreateModel(hidden_size=64, intermediate_size=128, layers=2, heads=2)
    create_student(create, ["What is two plus two? Be brief."] * 9, model, None, 0)
    context = run_of(tmp_path, model, "disagreement", student={"dtype": "float32"})
    rows = scored(context)
    for row in rows:
        assert row["student_response"] is not None and row["finish_reason"] in ("stop", "length")
        assert (row["student_samples"] is None) == (row["split"] == HOLDOUT)
        if row["split"] == SEED:
            assert len(row["student_samples"]) == 3 and row["difficulty"] == len(set(row["student_samples"]))
    assert max(row["difficulty"] or 0 for row in rows) > 1, "random weights give different samples"

    context.run.publish(context.loop.checkpoint(1), extra={"model": model})
    evaluate.evaluate(context)
    held = rows_of(context, context.loop.evaluation)
    greedy = {row["instruction_id"]: row["student_response"] for row in rows}
    assert len(held) == HELD and all(row["student_response"] == greedy[row["instruction_id"]] for row in held)
    assert {row["student_score"] for row in held} == {None}
    assert not list(context.run.events("holdout")), "there is no score to log"
