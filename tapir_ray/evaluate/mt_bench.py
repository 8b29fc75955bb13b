"""Suite `mt_bench`: 80 questions of two turns in 8 categories, each answer graded 1 to 10 by the judge.

L. Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, arXiv:2306.05685: single-answer grading, with
reference answers for mathematics, reasoning and coding. Protocol: the temperatures of TEMPERATURES, 1,024 new tokens,
the judge at temperature 0, the rating `[[n]]` of each turn, and the mean of all ratings as the score. The prompts are
the project's own (`llm/prompts/mt_bench_turn_*.jinja`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pyarrow as pa
import ray.data

from tapir_ray.config import Config
from tapir_ray.data.schemas import OK, SCORED, conform, instruction_id
from tapir_ray.errors import InputError
from tapir_ray.evaluate.item_files import Distinct, read_items, text_of_field
from tapir_ray.evaluate.mt_bench_judge import TURNS, GradeTurns
from tapir_ray.evaluate.paired import Metric, bootstrap
from tapir_ray.evaluate.suite import FOLLOW_UPS, NO_TASK, Forecast, Suite, Summary, summarised
from tapir_ray.llm.row_sampling import MAX_TOKENS, ROW_SAMPLING, TEMPERATURE
from tapir_ray.run.layout import Table

QUESTIONS, REFERENCES = "evaluate.mt_bench.questions", "evaluate.mt_bench.references"
PUBLIC = "lm-sys/FastChat on GitHub, fastchat/llm_judge/data/mt_bench"
SOURCES = {
    QUESTIONS: f"MT-Bench's question.jsonl ({PUBLIC}/question.jsonl)",
    REFERENCES: f"MT-Bench's reference answers ({PUBLIC}/reference_answer/gpt-4.jsonl)",
}
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1, "extraction": 0.0, "math": 0.0, "coding": 0.0,
    "reasoning": 0.0,
}  # fmt: skip
OTHER_TEMPERATURE = 0.7
"""Temperature of a category that MT-Bench does not have."""
WITH_REFERENCE = ("math", "reasoning", "coding")
SCHEMA = pa.schema(
    [
        *SCORED,
        (FOLLOW_UPS, pa.list_(pa.string())),
        *ROW_SAMPLING,
        ("question_id", pa.string()),
        ("references", pa.list_(pa.string())),
        *((f"turn_{turn}_score", pa.float64()) for turn in TURNS),
        *((f"turn_{turn}_judgement", pa.string()) for turn in TURNS),
    ]
)
"""`references`: reference answers to both turns; null if the category has none. `turn_N_score`: the judge's rating,
also in an item that failed because the other turn has none. `turn_N_judgement`: the reply it was read from."""


class MtBenchSuite(Suite):
    """Both turns of every question. An item's score is the mean of its two ratings."""

    schema: ClassVar[pa.Schema] = SCHEMA
    turns: ClassVar[int] = len(TURNS)
    judge: ClassVar[bool] = True

    def check(self) -> list[str]:
        """Reads both files. Raises InputError that names the key of one that is missing or broken."""
        longest, needed = self.config.student.max_model_len, self.config.evaluate.mt_bench.max_tokens
        read_questions(self.config)
        if longest < 2 * needed:
            return [
                f"mt_bench: student.max_model_len {longest} has no room for two answers of "
                f"evaluate.mt_bench.max_tokens {needed}: second turns may be cut off or left out"
            ]
        return []

    def forecast(self, answer: str) -> Forecast:
        grade, rows = GradeTurns.of(self.config), read_questions(self.config)
        prompts = [
            grade.prompt(turn, [row["messages"][0]["content"], *row[FOLLOW_UPS]], [answer] * 2, row["references"])
            for row in rows
            for turn in TURNS
        ]
        return Forecast(len(prompts), prompts)

    def items(self) -> ray.data.Dataset:
        return ray.data.from_arrow(conform(read_questions(self.config), SCHEMA))

    def count(self) -> int:
        return len(read_questions(self.config))

    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        return self.roles.ask(rows, GradeTurns.of(self.config), SCHEMA)

    def summary(self, table: Table) -> Summary:
        """Returns the mean of all ratings, by category too; the metrics hold each turn, also by category.

        A turn without a rating is left out of the means, and its item is `missing`. Raises StageError if the table is
        not finished.
        """
        columns = ["task", "status", *(f"turn_{turn}_score" for turn in TURNS)]
        rows = [row for batch in self.run.scan(table, columns) for row in batch.to_pylist()]
        manifest = self.run.manifest(table)
        ratings = [(row["task"] or NO_TASK, rating) for row in rows for rating in ratings_of(row)]
        found = summarised(ratings, {**manifest.reasons, **manifest.errors}, metrics(rows))
        return replace(found, rows=sum(row["status"] == OK for row in rows))


def metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """Returns `all_ratings`, `turn_1` and `turn_2`, and the turns of each category as `math/turn_1`."""
    found: dict[str, Metric] = {}
    if any(counts := [float(len(ratings_of(row))) for row in rows]):
        found["all_ratings"] = bootstrap([sum(ratings_of(row)) for row in rows], counts)
    categories = sorted({row["task"] or NO_TASK for row in rows})
    for category in [None, *categories]:
        chosen = [row for row in rows if category in (None, row["task"] or NO_TASK)]
        for turn in TURNS:
            scores = [row[f"turn_{turn}_score"] for row in chosen if row[f"turn_{turn}_score"] is not None]
            if scores:
                found[f"turn_{turn}" if category is None else f"{category}/turn_{turn}"] = bootstrap(scores)
    return found


def ratings_of(row: Mapping[str, Any]) -> list[float]:
    """Returns the ratings of an item: two, one or none."""
    return [row[name] for turn in TURNS if row[name := f"turn_{turn}_score"] is not None]


def read_questions(config: Config) -> list[dict[str, Any]]:
    """Returns the items of MT-Bench in the order of the file.

    Raises InputError for a missing or broken file, a question without two turns, and one that needs a reference answer
    and has none.
    """
    settings, rows = config.evaluate.mt_bench, []
    read = Distinct(QUESTIONS, "first turn")
    for place, question in read_items(settings.questions, QUESTIONS, SOURCES[QUESTIONS]):
        turns = _turns(question.get("turns"), place, QUESTIONS)
        category = text_of_field(question, "category", place, QUESTIONS)
        messages = [{"role": "user", "content": turns[0]}]
        row_id = instruction_id(messages)
        read.add(row_id, place)
        rows.append(
            {
                "instruction_id": row_id,
                "messages": messages,
                FOLLOW_UPS: turns[1:],
                "task": category,
                "status": OK,
                TEMPERATURE: TEMPERATURES.get(category, OTHER_TEMPERATURE),
                MAX_TOKENS: settings.max_tokens,
                "question_id": str(question.get("question_id")),
                "references": None,
            }
        )
    if not rows:
        raise InputError(f"{QUESTIONS} {settings.questions} has no questions: give the path of {SOURCES[QUESTIONS]}")
    return _with_references(rows, config)


def _with_references(rows: list[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """Adds the reference answers of the categories that are graded with them."""
    asking = [row for row in rows if row["task"] in WITH_REFERENCE]
    if not asking:
        return rows
    references: dict[str, list[str]] = {}
    for place, found in read_items(config.evaluate.mt_bench.references, REFERENCES, SOURCES[REFERENCES]):
        choices = found.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        turns = first.get("turns") if isinstance(first, dict) else found.get("turns")
        references[str(found.get("question_id"))] = _turns(turns, place, REFERENCES)
    if missing := [row["question_id"] for row in asking if row["question_id"] not in references]:
        raise InputError(
            f"{REFERENCES} {config.evaluate.mt_bench.references} lacks the answers to {len(missing)} questions of "
            f"{', '.join(WITH_REFERENCE)} (question_id {', '.join(missing[:5])}): give the path of "
            f"{SOURCES[REFERENCES]}"
        )
    for row in asking:
        row["references"] = references[row["question_id"]]
    return rows


def _turns(turns: Any, place: str, key: str) -> list[str]:
    if not isinstance(turns, list) or len(turns) != len(TURNS) or not all(isinstance(text, str) for text in turns):
        raise InputError(f"{key} {place}: turns must be a list of {len(TURNS)} texts; give the path of {SOURCES[key]}")
    return turns
