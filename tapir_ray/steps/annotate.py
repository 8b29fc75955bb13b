"""Annotate: the teacher revises the chosen explanations (CLEAR), within the budgets of annotations.

The budgets are counted from the tables of the run alone, so a continued run spends the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.config import Elad, Price
from tapir_ray.data.schemas import ANNOTATED, FAILED, HOLDOUT, OK, conform
from tapir_ray.run.layout import Table
from tapir_ray.run.run import Run
from tapir_ray.steps import early_stop
from tapir_ray.steps.context import PLANNED, Context
from tapir_ray.steps.evaluate import note_holdout
from tapir_ray.transforms.revise import revise


@dataclass(frozen=True)
class Spent:
    """Annotations of a run and the teacher's tokens for them; failed rows have tokens, but are no annotations."""

    annotations: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    """US dollars by `teacher.price`."""

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def spent(run: Run, annotated: Sequence[Table], price: Price | None) -> Spent:
    """Returns what the annotations in finished tables have cost; without a price they cost nothing."""
    rows = read = written = 0
    for table in annotated:
        for batch in run.scan(table, ["status", "input_tokens", "output_tokens"]):
            rows += pc.sum(pc.not_equal(batch["status"], FAILED)).as_py() or 0
            read += pc.sum(batch["input_tokens"]).as_py() or 0
            written += pc.sum(batch["output_tokens"]).as_py() or 0
    cost = 0.0 if price is None else (read * price.input + written * price.output) / 1e6 + rows * price.request
    return Spent(rows, read, written, cost)


def affordable(budget: Elad, before: Spent, candidates: int) -> tuple[int, str]:
    """Returns (annotations of the next round, the reason if they are none).

    An annotation is taken to cost the mean of those before. The first round has none to go by, so it may overspend.
    """
    limits: dict[str, float] = {"no question is left to annotate": candidates}
    if budget.max_annotations is not None:
        limits[f"elad.max_annotations {budget.max_annotations}"] = budget.max_annotations - before.annotations
    for name, most, used in (
        ("max_tokens", budget.max_tokens, before.tokens),
        ("max_cost", budget.max_cost, before.cost),
    ):
        if most is not None and used:
            mean = used / max(1, before.annotations)
            limits[f"elad.{name} {most:g}"] = (most - used) // mean
    reason = min(limits, key=lambda name: limits[name])
    count = int(max(0, min(limits[reason], budget.annotations)))
    return count, "" if count else f"{reason}{'' if reason.startswith('no ') else ' is used up'}"


def budget_of(context: Context, round_number: int) -> int:
    """Returns the annotations of a round; 0 ends the run after the round before, with its scores of the holdout."""
    loop, run = context.elad, context.run
    tables = [loop.elad_round(before).annotated for before in range(1, round_number)]
    before = spent(run, tables, context.config.teacher.known_price)
    candidates = 0
    for batch in run.scan(loop.elad_round(round_number).scored, ["split", "status"]):
        usable = pc.and_(pc.equal(batch["status"], OK), pc.not_equal(batch["split"], HOLDOUT))
        candidates += pc.sum(usable).as_py() or 0
    count, reason = affordable(context.config.elad, before, candidates)
    if not count:
        early_stop.end(context, round_number - 1, reason=reason)
    return count


def annotate(context: Context, round_number: int) -> None:
    """Writes `rounds/NN/annotated`: the chosen explanations with the teacher's verdict, its position and revision."""
    tables, run = context.elad.elad_round(round_number), context.run
    if run.done(tables.annotated):
        return
    with context.stage("annotate", round_number):
        count = 0
        for batch in run.scan(tables.selected, ["chosen"]):
            count += pc.sum(batch["chosen"]).as_py() or 0
        rows = context.map(context.read(tables.selected), _to_annotate)
        rows = context.remaining(tables.annotated, rows)
        rows = revise(rows, context.config, context.roles, context.taxonomy.styles)
        context.write(tables.annotated, rows, f"round {round_number} annotate", count)


def _to_annotate(selected: pa.Table) -> pa.Table:
    return conform(selected.filter(selected["chosen"]), ANNOTATED)


def numbers(run: Run, selected: Table, annotated: Table, continued: Table | None) -> dict[str, Any]:
    """Returns the numbers of a round's annotations, for its plan, the trackers and the reports."""
    means: dict[bool, list[float]] = {True: [], False: []}
    tokens = 0
    for batch in run.scan(selected, ["chosen", "uncertainty", "answer_tokens"]):
        tokens += pc.sum(batch["answer_tokens"]).as_py() or 0
        for row in batch.to_pylist():
            if row["uncertainty"] is not None:
                means[row["chosen"]].append(row["uncertainty"])
    for batch in run.scan(continued, ["answer_tokens"]) if continued is not None else ():
        tokens += pc.sum(batch["answer_tokens"]).as_py() or 0
    verdicts: Counter[str] = Counter()
    places: list[int] = []
    for batch in run.scan(annotated, ["verdict", "first_faulty", "status"]):
        for row in batch.to_pylist():
            verdicts[row["verdict"] or row["status"]] += 1
            places += [row["first_faulty"]] if row["first_faulty"] is not None else []
    used, every = spent(run, [annotated], None), means[True] + means[False]
    return {
        "annotations": used.annotations,
        "verdicts": dict(verdicts),
        "mean_first_faulty": round(fmean(places), 3) if places else None,
        "uncertainty": round(fmean(every), 4) if every else None,
        "uncertainty_chosen": round(fmean(means[True]), 4) if means[True] else None,
        "student_tokens": tokens,
        "teacher_input_tokens": used.input_tokens,
        "teacher_output_tokens": used.output_tokens,
    }


def note_plan(context: Context, round_number: int) -> dict[str, Any]:
    """Returns the numbers of the round, and logs them and the student's score before it, once."""
    tables = context.elad.elad_round(round_number)
    made = numbers(context.run, tables.selected, tables.annotated, tables.continued)
    if context.run.find_json(tables.plan) is None:
        note_holdout(context, tables.scored, round_number - 1)
        flat = {name: value for name, value in made.items() if isinstance(value, int | float)}
        verdicts = {f"verdict_{name}": count for name, count in made["verdicts"].items()}
        context.note_round(PLANNED, round_number, **flat, **verdicts)
        context.progress.say(f"round {round_number}: {in_words(made)}")
    return made


def in_words(made: dict[str, Any]) -> str:
    """Returns the numbers of a round's annotations in one line."""
    verdicts = ", ".join(f"{count} {name}" for name, count in made["verdicts"].items())
    said = [f"{made['annotations']} annotations ({verdicts})"]
    if made["mean_first_faulty"] is not None:
        said.append(f"first faulty step {made['mean_first_faulty']:.2f} on average")
    if made["uncertainty"] is not None:
        said.append(f"uncertainty {made['uncertainty']:.3f}, of the chosen {made['uncertainty_chosen'] or 0.0:.3f}")
    said.append(f"{made['student_tokens']:,} tokens of the student")
    said.append(f"{made['teacher_input_tokens'] + made['teacher_output_tokens']:,} of the teacher")
    return "; ".join(said)
