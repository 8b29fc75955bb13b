"""A user's filters, each a function of this file: one runs before answering, the other after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data

from tapir_ray.api.offline import check_offline
from tapir_ray.config import Config
from tapir_ray.curriculum.tasks import TOXICITY
from tapir_ray.data import schemas
from tapir_ray.errors import InputError
from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.annotators import annotation
from tapir_ray.transforms.filters import AFTER, BEFORE, after_answering, filter_generated, mark_rows, row_filters
from tapir_ray.transforms.judge_question import Questions
from tapir_ray.transforms.respond import RespondRow, respond
from tests.llm.endpoint import running
from tests.page_examples import example
from tests.transforms.asking import config_for, dataset, directly, instruction, opened

HERE = "tests.transforms.filters.test_added"
REFUSAL = "I'm sorry, but I can't assist with that request."


def shouts(row: dict[str, Any]) -> str | None:
    """Drops instructions in capitals."""
    text = row["messages"][-1]["content"]
    assert row["response"] is None, "it runs before the instruction is answered"
    return "shouts" if text.isupper() else None


@after_answering
def too_short(row: dict[str, Any]) -> str | None:
    """Drops answers of fewer than three words."""
    words = len(row["response"].split())
    return f"too_short: {words} words" if words < 3 else None


FILTERS = {"functions": [f"{HERE}:shouts", f"{HERE}:too_short"]}


def teacher(body: dict[str, Any], _: int) -> str:
    text = body["messages"][-1]["content"]
    if "judge" in text:
        return "Score: 7"
    if "refuse?" in text:
        return REFUSAL
    if "<style>" in text:
        return "A rewritten answer with many words"
    if "seed?" in text:
        return "one two three four" if body["seed"] % 2 else "one"
    return "Yes." if "brief?" in text else "A long answer, in some words."


def answered(config: Config, *rows: dict[str, Any], **styles: str) -> list[dict[str, Any]]:
    return directly(RespondRow(Questions(Prompts()), config, styles), list(rows), config)


def test_a_function_runs_before_an_answer_is_paid_for(ray_local: None, tmp_path: Path) -> None:
    rows = [
        {**instruction(text), "draw_id": f"{n:032x}", "round": 1}
        for n, text in enumerate(("SAY IT LOUD", "Say it softly, please."))
    ]
    table = schemas.conform(rows, schemas.GENERATED_ROWS)
    config = config_for("http://127.0.0.1:9/v1", filter=FILTERS)
    marked = filter_generated(ray.data.from_arrow(table), config, {}, str(tmp_path / "bands"), [])
    found = sorted(marked.take_all(), key=lambda row: row["draw_id"])
    assert [(row["status"], row["reason"]) for row in found] == [("filtered", "shouts"), ("ok", None)]


def test_a_marked_function_runs_on_the_answers() -> None:
    rows = [instruction(text, response=None) for text in ("long?", "brief?", "refuse?")]
    with running(teacher) as seen:
        found = answered(config_for(seen.url, filter=FILTERS), *rows)
    assert [row.get("reason") for row in found] == [None, "too_short: 1 words", "refused"]
    assert [row["status"] for row in found] == ["ok", "filtered", "filtered"]
    assert found[0]["response"] == "A long answer, in some words." and found[1]["response"] is None


def test_only_samples_that_pass_are_judged() -> None:
    """The judge is not paid to score an answer that a function drops."""
    with running(teacher) as seen:
        config = config_for(
            seen.url, filter=FILTERS, respond={"samples": 6}, teacher={"sampling": {"temperature": 1.0}}
        )
        (row,) = answered(config, instruction("seed?", response=None))
    asked = [body for body in seen.requests if body["messages"][-1]["content"] == "seed?"]
    passed = sum(body["seed"] % 2 for body in asked)
    assert len(asked) == 6 and 0 < passed < 6
    assert len(seen.requests) - len(asked) == passed
    assert (row["response"], row["answer_score"]) == ("one two three four", 7.0)


def test_a_draft_is_not_filtered_as_an_answer_but_a_refused_draft_is_not_rewritten() -> None:
    rows = [instruction("brief?", response=None), instruction("refuse?", response=None)]
    with running(teacher) as seen:
        config = config_for(seen.url, filter=FILTERS, rewrite={"mode": "second_pass"})
        brief, refused = answered(config, *rows, Math="Step by step.")
        assert len(seen.requests) == 3
    assert (brief["status"], brief["response"]) == ("ok", "A rewritten answer with many words")
    assert refused["reason"] == "refused"


def test_a_refusal_is_a_valid_answer_to_toxicity() -> None:
    with running(teacher) as seen:
        (row,) = answered(config_for(seen.url), instruction("refuse?", task=TOXICITY, response=None))
    assert row["response"] == REFUSAL


def test_an_error_of_a_function_fails_only_its_row(ray_local: None) -> None:
    with running(teacher) as seen:
        config = config_for(seen.url, filter={"functions": [f"{HERE}:broken"]})
        rows = [instruction("brief?", response=None), instruction("long?", response=None)]
        with opened(config) as roles:
            found = respond(dataset(rows, schemas.GENERATED_ROWS), config, roles, {}).take_all()
    assert {row["messages"][0]["content"]: (row["status"], row["reason"]) for row in found} == {
        "brief?": ("failed", "ZeroDivisionError: division by zero"),
        "long?": ("ok", None),
    }


@after_answering
def broken(row: dict[str, Any]) -> str | None:
    return str(1 / 0) if row["response"] == "Yes." else None


def my_annotation(rows: ray.data.Dataset, *_: Any) -> ray.data.Dataset:
    """Answers every row with one word."""

    def answer(batch: pa.Table) -> pa.Table:
        return schemas.with_columns(batch, response="Yes")

    return rows.map_batches(answer, batch_format="pyarrow")


def test_answers_of_a_users_annotation_are_filtered_too(ray_local: None) -> None:
    config = config_for("http://127.0.0.1:9/v1", filter=FILTERS)
    rows = ray.data.from_arrow(schemas.conform([instruction("x", response=None)], schemas.GENERATED_ROWS))
    annotate: Any = annotation(f"{HERE}:my_annotation")
    (row,) = annotate(rows, config, None, {}).take_all()
    assert (row["status"], row["reason"], row["response"]) == ("filtered", "too_short: 1 words", "Yes")


def test_functions_before_answering_do_not_see_answers() -> None:
    config = config_for("http://127.0.0.1:9/v1", filter=FILTERS)
    table = schemas.conform([instruction("Yes.", response=None)], schemas.GENERATED_ROWS)
    assert mark_rows(table, row_filters(config, BEFORE))["reason"].to_pylist() == [None]


def test_an_unknown_function_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    (tmp_path / "seed.jsonl").write_text('{"instruction": "i", "output": "o"}\n')
    config = config_for(
        "http://127.0.0.1:9/v1",
        seed_data={"path": str(tmp_path / "seed.jsonl")},
        filter={"functions": [f"{HERE}:nobody"]},
    )
    with pytest.raises(InputError, match=r"filter\.functions: .*nobody"):
        check_offline(config)


def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    example("filters.md", 0, "my_filters", monkeypatch)
    config = config_for("", filter={"functions": ["my_filters:asks_for_code", "my_filters:too_short"]})
    (*_, before), (*_, after) = row_filters(config, BEFORE), row_filters(config, AFTER)
    assert before.reason(instruction("Fix ```x```")) == "asks_for_code"
    assert before.reason(instruction("Fix it")) is None
    assert after.reason(instruction("Fix it", response="It is done.")) == "too_short: 3 words"
    turns = example("filters.md", 1, "too_many_turns", monkeypatch).TooManyTurns()
    assert turns.reason({"messages": [{"role": "user", "content": "x"}] * 21}) == "too_many_turns"
    assert turns.reason({"messages": [{"role": "user", "content": "x"}] * 20}) is None
