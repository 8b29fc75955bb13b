"""Suite `alpaca_eval`: the judge prefers the student's answer or that of a baseline model; the score is the win rate.

AlpacaEval 2.0 (X. Li et al., tatsu-lab/alpaca_eval): 805 instructions, GPT-4 Turbo as baseline and as judge. The
evaluator and its prompt are those of the package alpaca-eval (`alpaca_eval_evaluator.py`). An item's score is
100 · (preference − 1), so the mean is the raw win rate in percent. A length-controlled rate is added if it is valid
(`alpaca_eval_length.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pyarrow as pa
import ray.data

from tapir_ray.config import Config
from tapir_ray.data.schemas import OK, SCORED, conform, instruction_id
from tapir_ray.errors import InputError
from tapir_ray.evaluate import alpaca_eval_length
from tapir_ray.evaluate.alpaca_eval_annotations import rate
from tapir_ray.evaluate.alpaca_eval_evaluator import load_evaluator
from tapir_ray.evaluate.alpaca_eval_judge import UNPARSED, Prefer
from tapir_ray.evaluate.item_files import Distinct, read_items, text_of_field
from tapir_ray.evaluate.paired import Metric, bootstrap
from tapir_ray.evaluate.suite import Forecast, Suite, Summary
from tapir_ray.llm.row_sampling import MAX_TOKENS, ROW_SAMPLING
from tapir_ray.run.layout import Table

BASELINE, ITEMS = "evaluate.alpaca_eval.baseline", "evaluate.alpaca_eval.items"
SOURCES = {
    BASELINE: "the baseline's answers (alpaca_eval_gpt4_baseline.json of the hub's data set tatsu-lab/alpaca_eval)",
    ITEMS: "the instructions (alpaca_eval.json of the hub's data set tatsu-lab/alpaca_eval)",
}
Z = 1.96
"""Standard errors on each side of a 95 % interval of a normal distribution."""
SCHEMA = pa.schema(
    [
        *SCORED,
        *ROW_SAMPLING,
        ("position", pa.int64()),
        ("generator", pa.string()),
        ("shown_first", pa.bool_()),
        ("preference", pa.float64()),
        ("verdict", pa.string()),
    ]
)
"""`position`: of the item in its file, from 0. `generator`: name of the baseline, whose answer is `response`.
`shown_first`: whether the judge has seen the student's answer first. `preference`: 1 (baseline) to 2 (student).
`verdict`: the judge's reply; null for two equal answers, which are a draw without a request."""


class AlpacaEvalSuite(Suite):
    """Preferences between the student's answers and a baseline's."""

    schema: ClassVar[pa.Schema] = SCHEMA
    judge: ClassVar[bool] = True

    def check(self) -> list[str]:
        """Reads the files and the evaluator, and warns of figures that are not those of the leaderboard.

        Raises InputError that names the key of a file that is missing or broken; without the package alpaca-eval; and
        for `length_control` with settings for which the length-controlled rate is invalid.
        """
        settings, rows = self.config.evaluate.alpaca_eval, read_baseline(self.config)
        load_evaluator(settings.evaluator)
        reasons = list(_differences(self.config, rows))
        if settings.length_control is not None:
            if reasons:
                raise InputError(
                    "evaluate.alpaca_eval.length_control: the length-controlled win rate would be invalid: "
                    f"{reasons[0]}; change this, or take length_control out"
                )
            alpaca_eval_length.check(settings.length_control)
        return [f"alpaca_eval: not comparable with the leaderboard: {reason}" for reason in reasons]

    def forecast(self, answer: str) -> Forecast:
        evaluator, rows = load_evaluator(self.config.evaluate.alpaca_eval.evaluator), read_baseline(self.config)
        prompts = [
            "\n".join(turn["content"] for turn in evaluator.messages(_asked(row), row["response"], answer))
            for row in rows
        ]
        return Forecast(len(rows), prompts, evaluator.max_tokens)

    def items(self) -> ray.data.Dataset:
        return ray.data.from_arrow(conform(read_baseline(self.config), SCHEMA))

    def count(self) -> int:
        return len(read_baseline(self.config))

    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        return self.roles.ask(rows, Prefer.of(self.config), SCHEMA)

    def summary(self, table: Table) -> Summary:
        """Returns the raw win rate in percent; `metrics` has it with its standard error, and other rates.

        Raises StageError if the table is not finished.
        """
        found = super().summary(table)
        columns = ["position", "status", "reason", "messages", "response", "student_response", "generator"]
        rows = [row for batch in self.run.scan(table, [*columns, "preference"]) for row in batch.to_pylist()]
        return replace(found, metrics=metrics(rows, self.config)) if found.rows else found


def metrics(rows: Sequence[Mapping[str, Any]], config: Config) -> dict[str, Metric]:
    """Returns `win_rate`, `discrete_win_rate` and, if valid, `length_controlled_win_rate`, in percent.

    The interval of `win_rate` is a bootstrap; that of the length-controlled rate is ± 1.96 standard errors.
    """
    preferences = [row["preference"] for row in rows if row["preference"] is not None]
    whole = [preference if preference == 1.5 else round(preference) for preference in preferences]
    raw = bootstrap([100 * (preference - 1) for preference in preferences])
    found = {
        "win_rate": replace(raw, standard_error=rate(preferences).standard_error),
        "discrete_win_rate": bootstrap([100 * (preference - 1) for preference in whole]),
    }
    annotations, gamed = annotations_of(rows, config), config.evaluate.alpaca_eval.length_control
    if gamed is not None and alpaca_eval_length.why_not(annotations) is None:
        value, error = alpaca_eval_length.length_controlled(annotations, gamed)
        found["length_controlled_win_rate"] = Metric(
            round(value, 4),
            round(value - Z * error, 4),
            round(value + Z * error, 4),
            rows=len(annotations),
            standard_error=error,
        )
    return found


def annotations_of(rows: Sequence[Mapping[str, Any]], config: Config) -> list[dict[str, Any]]:
    """Returns the results in the format of the package's `annotations.json`, in the order of the items.

    Without items that have no answer; an item whose verdict could not be read has no preference.
    """
    model = config.student.model or config.name
    return [
        {
            "instruction": _asked(row),
            "output_1": row["response"],
            "generator_1": row["generator"],
            "output_2": row["student_response"],
            "generator_2": model,
            "annotator": config.evaluate.alpaca_eval.evaluator,
            "preference": row["preference"],
        }
        for row in sorted(rows, key=lambda row: row["position"])
        if row["status"] == OK or str(row["reason"]).startswith(UNPARSED)
    ]


def read_baseline(config: Config) -> list[dict[str, Any]]:
    """Returns the items with the baseline's answers, in the order of the file of instructions.

    Raises InputError for a missing or broken file, an instruction that comes twice, and one without an answer.
    """
    settings = config.evaluate.alpaca_eval
    answers = {text: row for text, row in _by_instruction(settings.baseline, BASELINE)}
    asked = answers if settings.items is None else dict(_by_instruction(settings.items, ITEMS))
    if missing := [text for text in asked if text not in answers]:
        raise InputError(
            f"{BASELINE} {settings.baseline} has no answer to {len(missing)} instructions of {ITEMS}, such as "
            f"{missing[0][:80]!r}: give both files of the same data set"
        )
    if not asked:
        raise InputError(f"{ITEMS if settings.items else BASELINE} has no instructions")
    items = []
    for position, (text, row) in enumerate(asked.items()):
        messages = [{"role": "user", "content": text}]
        items.append(
            {
                "instruction_id": instruction_id(messages),
                "messages": messages,
                "response": answers[text]["answer"],
                "task": row.get("dataset") or None,
                "status": OK,
                MAX_TOKENS: settings.max_tokens,
                "position": position,
                "generator": answers[text]["by"],
            }
        )
    return items


def _by_instruction(path: str | None, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (instruction, row); a baseline's row also has `answer` and `by`, the name of its model."""
    read = Distinct(key, "instruction")
    for place, row in read_items(path, key, SOURCES[key]):
        text = text_of_field(row, "instruction", place, key)
        read.add(text, place)
        dataset = row.get("dataset") if isinstance(row.get("dataset"), str) else None
        if key == ITEMS:
            yield text, {"dataset": dataset}
            continue
        suffix = "" if "output" in row else "_1"
        answer, by = row.get(f"output{suffix}"), row.get(f"generator{suffix}")
        if not isinstance(answer, str):
            raise InputError(f"{key} {place} has no text in output or output_1: give the path of {SOURCES[key]}")
        yield text, {"dataset": dataset, "answer": answer, "by": by if isinstance(by, str) else None}


def _differences(config: Config, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the reasons why the win rate is not that of the leaderboard."""
    own = alpaca_eval_length
    if (reason := own.why_not_items([_asked(row) for row in rows])) is not None:
        yield reason
    if others := sorted({str(row["generator"]) for row in rows} - {own.BASELINE}):
        yield f"the baseline is {others[0]}, not {own.BASELINE}"
    if config.evaluate.alpaca_eval.evaluator != own.EVALUATOR:
        yield f"the evaluator is {config.evaluate.alpaca_eval.evaluator}, not {own.EVALUATOR}"
    if config.judge_endpoint.model != own.JUDGE:
        yield f"the judge is {config.judge_endpoint.model}, not {own.JUDGE}"
    if not config.evaluate.alpaca_eval.logprobs:
        yield "evaluate.alpaca_eval.logprobs is false, and verdicts are not weighed"


def _asked(row: Mapping[str, Any]) -> str:
    return str(row["messages"][0]["content"])
