"""Evaluation suites: a suite in a single file with the student's endpoint and a run's tables, and the holdout."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import ray
import ray.data

from tapir_ray.data.schemas import HOLDOUT, INSTRUCTIONS, SCORED, SEED, conform, instruction_id
from tapir_ray.errors import StageError
from tapir_ray.evaluate.registry import suites
from tapir_ray.evaluate.suite import FOLLOW_UPS, Suite, Summary
from tapir_ray.steps import evaluate
from tapir_ray.steps.context import Context
from tests.llm.endpoint import Fault, running
from tests.steps.contexts import context_for, rows_of, write

SPEC, TABLE = f"{__name__}:Capitals", "evaluation/Capitals"
ITEMS = [("France", "Paris"), ("Italy", "Rome"), ("Peru", "Lima"), ("Chad", "N'Djamena")]
SCHEMA = pa.schema([*SCORED, (FOLLOW_UPS, pa.list_(pa.string()))])
PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
ENDPOINT = {"model": "s", "api_key_env": None, "max_attempts": 1}


class Capitals(Suite):
    """Asks for a capital, and in a second turn to repeat it.

    An item scores 1 if every turn names the capital, and 0.5 if one of two does. The last item has one turn.
    """

    schema: ClassVar[pa.Schema] = SCHEMA
    turns: ClassVar[int] = 2

    def items(self) -> ray.data.Dataset:
        rows = []
        for country, capital in ITEMS:
            messages = [{"role": "user", "content": f"The capital of {country}?"}]
            rows.append(
                {
                    "instruction_id": instruction_id(messages),
                    "messages": messages,
                    FOLLOW_UPS: ["Again?"] if country != "Chad" else [],
                    "response": capital,
                    "task": "Europe" if country in ("France", "Italy") else "elsewhere",
                    "status": "ok",
                }
            )
        return ray.data.from_arrow(conform(rows, self.schema))

    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        return rows.map_batches(exact, batch_format="pyarrow", batch_size=None, num_cpus=0.1)


def exact(batch: pa.Table) -> pa.Table:
    rows = batch.to_pylist()
    for row in rows:
        if row["status"] == "ok":
            answers = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
            answers.append(row["student_response"])
            row["student_score"] = sum(row["response"] in answer for answer in answers) / len(answers)
    return conform(rows, SCHEMA)


def student(body: dict[str, Any], attempt: int) -> str | Fault:
    """Knows the capitals, forgets Italy's in the second turn, and fails for Peru."""
    if is_about(body, "Peru"):
        return Fault(400)
    if is_about(body, "Italy") and is_about(body, "Again?"):
        return "I forgot."
    return next(capital for country, capital in ITEMS if is_about(body, country))


def is_about(body: dict[str, Any], words: str) -> bool:
    return any(words in message["content"] for message in body["messages"])


def context_of(folder: Path, url: str, student_sections: dict[str, Any] | None = None, **sections: Any) -> Context:
    """Returns a trained run without tables of rounds; its judge is at `url`, its student too unless it is given."""
    endpoint = {**ENDPOINT, "base_url": url}
    student = student_sections or {"model": "m", "engine": "openai", "endpoint": endpoint}
    context = context_for(
        folder,
        write(folder / "seed.jsonl", [{"instruction": "q", "output": "a"}]),
        student=student,
        teacher={**endpoint, "model": "judge"},
        **sections,
    )
    context.run.publish(context.loop.checkpoint(context.config.curriculum.rounds), extra={"model": student["model"]})
    return context


WITHOUT_HOLDOUT: dict[str, Any] = {"holdout": {"rows": 0}, "evaluate": {"suites": [SPEC]}}


def summary_of(context: Context) -> Summary:
    """Returns the summary of the only suite."""
    ((table, suite),) = suites(context.run, context.config, context.loop, context.roles).items()
    return suite.summary(table)


def test_a_suite_in_one_file_stores_answers_scores_and_summary(tmp_path: Path, ray_local: None) -> None:
    with running(student) as endpoint:
        context = context_of(tmp_path, endpoint.url, max_error_rate=0.5, **WITHOUT_HOLDOUT)
        with context.roles:
            evaluate.evaluate(context)
            evaluate.evaluate(context)
        assert len(endpoint.requests) == 6, "four first turns and two second ones; a finished table is not made again"
    rows = {row["response"]: row for row in rows_of(context, TABLE)}
    assert {capital: row["student_score"] for capital, row in rows.items()} == {
        "Paris": 1.0, "Rome": 0.5, "Lima": None, "N'Djamena": 1.0
    }  # fmt: skip
    assert [turn["content"] for turn in rows["Rome"]["messages"]] == ["The capital of Italy?", "Rome", "Again?"]
    assert rows["Rome"]["student_response"] == "I forgot." and rows["Lima"]["status"] == "failed"
    assert not context.run.exists(f"{TABLE}-turn_1")
    summary = summary_of(context)
    assert (summary.mean, summary.rows) == (0.833, 3)
    assert summary.by_category == {"Europe": 0.75, "elsewhere": 1.0}
    assert sum(summary.missing.values()) == 1


@pytest.mark.slow
def test_a_stopped_suite_continues_with_its_missing_items(tmp_path: Path, ray_local: None) -> None:
    repaired = False
    with running(lambda body, attempt: "Lima" if repaired and is_about(body, "Peru") else student(body, 0)) as endpoint:
        context = context_of(tmp_path, endpoint.url, max_error_rate=0.0, **WITHOUT_HOLDOUT)
        with context.roles:
            with pytest.raises(StageError, match="evaluation/Capitals-turn_1"):
                evaluate.evaluate(context)
            before, repaired = len(endpoint.requests), True
            evaluate.evaluate(context)
        assert len(endpoint.requests) - before <= 1 + 3 + (4 - before), (
            "Peru, the second turns, and requests cut off by the stop"
        )
    rows = rows_of(context, TABLE)
    assert len(rows) == 4 and {row["status"] for row in rows} == {"ok"}


def test_the_holdout_is_a_suite(tmp_path: Path, ray_local: None) -> None:
    def answer(body: dict[str, Any], attempt: int) -> str:
        return "Fine.\nScores: 8 5" if body["model"] == "judge" else "an answer"

    sections = {
        "holdout": {"rows": 4, "select_share": 0.0},
        "judge": {"both_orders": False, "repeat_share": 0.0},
    }
    with running(answer) as endpoint:
        context = context_of(tmp_path, endpoint.url, **sections)
        row = {"split": HOLDOUT, "status": "ok", "response": "the teacher's", "task": "Math"}
        others = [{"split": SEED}, {"response": None}, {"status": "filtered"}]
        rows = [
            {**row, **change, "instruction_id": str(number), "messages": [{"role": "user", "content": f"q{number}"}]}
            for number, change in enumerate([{}, {}, *others])
        ]
        context.run.write_rows("seed/instructions", conform(rows, INSTRUCTIONS))
        with context.roles:
            evaluate.evaluate(context)
    found = rows_of(context, "evaluation/holdout")
    assert {row["instruction_id"]: (row["teacher_score"], row["student_score"]) for row in found} == {
        "0": (8.0, 5.0), "1": (8.0, 5.0)
    }  # fmt: skip
    assert {row["student_response"] for row in found} == {"an answer"}
    assert [(event["round"], event["holdout_score"]) for event in context.run.events("holdout")] == [(3, 5.0)]


@pytest.mark.slow
def test_the_example_of_the_page_asks_the_judge(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polite, impolite, and a judge that does not say: it is asked three times, and the item is counted."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "support.py").write_text(code)
    texts = ["kind?", "rude?", "strange?"]
    write(tmp_path / "support.jsonl", [{"text": text, "product": "pens"} for text in texts])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ray.cloudpickle.register_pickle_by_value(importlib.import_module("support"))

    def answer(body: dict[str, Any], attempt: int) -> str:
        if body["model"] == "judge":
            return "Yes." if is_about(body, "kind") else "no" if is_about(body, "rude") else "perhaps"
        return body["messages"][0]["content"].replace("?", "!")

    sections: dict[str, Any] = {
        "holdout": {"rows": 0}, "evaluate": {"suites": ["support:Politeness"]}, "max_error_rate": 0.5
    }  # fmt: skip
    with running(answer) as endpoint:
        context = context_of(tmp_path, endpoint.url, **sections)
        with context.roles:
            evaluate.evaluate(context)
        assert len([body for body in endpoint.requests if body["model"] == "judge"]) == 1 + 1 + 3
    assert summary_of(context) == Summary(0.5, 2, {"pens": 0.5}, {"no_verdict": 1})


class Empty(Suite):
    """No items."""

    def items(self) -> ray.data.Dataset:
        raise AssertionError("count is known")

    def count(self) -> int:
        return 0

    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        return rows


@pytest.mark.parametrize("finished", [True, False])
def test_results_of_another_suite_with_the_same_name_are_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: bool
) -> None:
    spec, other, table = f"{__name__}:Empty", "other:Empty", "evaluation/Empty"
    context = context_of(tmp_path, "http://127.0.0.1:9/v1", holdout={"rows": 0}, evaluate={"suites": [spec]})
    context.run.event("suite", table=table, suite=other)
    for name in (table, f"{table}-turn_1", "evaluation/EmptyHanded"):
        context.run.write_rows(name, conform([{"instruction_id": "old"}], SCORED))
    if finished:
        context.run.publish(table, extra={"suite": other})
    else:
        context.run.fs.delete_file(context.run.path(f"{table}/_manifest.json"))
    evaluate.evaluate(context)
    manifest = context.run.manifest(table)
    assert manifest.rows == 0 and manifest.extra == {"suite": spec}
    assert not context.run.exists(f"{table}-turn_1") and context.run.exists("evaluation/EmptyHanded")
    assert f"{table} has the results of {other}" in "".join(capsys.readouterr())
    evaluate.evaluate(context)
    assert context.run.manifest(table) == manifest
    assert [event["suite"] for event in context.run.events("suite")] == [other, spec]


def test_a_suite_without_items_sends_no_request(tmp_path: Path, ray_local: None) -> None:
    context = context_of(tmp_path, "http://127.0.0.1:9/v1")
    context.run.write_rows("seed/instructions", conform([], INSTRUCTIONS))
    evaluate.evaluate(context)
    assert context.run.manifest("evaluation/holdout").rows == 0
