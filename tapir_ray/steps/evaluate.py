"""Evaluate: runs every suite of `evaluate.suites` on the last student, the initial one and the control."""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.config import Config
from tapir_ray.config.evaluate import CONTROL, INITIAL, LAST
from tapir_ray.data.schemas import OK, conform
from tapir_ray.evaluate.holdout_scores import reported_score
from tapir_ray.evaluate.registry import suites
from tapir_ray.evaluate.results import MEASURED
from tapir_ray.evaluate.settings import settings_of
from tapir_ray.evaluate.suite import FOLLOW_UPS, EvaluatedModel, Suite
from tapir_ray.run.layout import Table
from tapir_ray.run.run import Run
from tapir_ray.steps.answer import answer, answering
from tapir_ray.steps.context import ON_HOLDOUT, Context
from tapir_ray.steps.item_contamination import MARKS, contaminated_items, with_marks
from tapir_ray.steps.students import Measured, students

EVERY = (LAST, INITIAL, CONTROL)
SUITE, SETTINGS = "suite", "settings"
"""Event of a suite that begins, and the keys of its name and its settings in `extra` of the table's manifest."""


def evaluate(context: Context, of: Collection[str] | None = None, who: Collection[str] = EVERY) -> None:
    """Writes the results of every suite of `evaluate.suites` for each student of the run, the last one first.

    With `of` only these suites run, and `who` names the students to measure (`last`, `initial`, `control`). A table of
    another suite of that name, or of other settings, is made again.
    """
    last = len(context.loop.rounds)
    found = suites(context.run, context.config, context.loop, context.roles)
    for tables, suite in zip(context.loop.suites, found.values(), strict=True):
        if of is not None and tables.suite not in of:
            continue
        for measured in students(context, tables, who):
            clear_another(context, tables.suite, measured.table)
            if context.run.done(measured.table):
                continue
            _measure(context, tables.suite, suite, measured, last)
            if measured.table == context.loop.evaluation:
                note_holdout(context, measured.table, last)


def _measure(context: Context, spec: str, suite: Suite, measured: Measured, round_number: int) -> None:
    run, table = context.run, measured.table
    settings = {SETTINGS: found} if (found := settings_of(context.config, spec)) else {}
    label = None if measured.student == LAST else f"evaluate the {measured.student} student on {table.name}"
    started = time.monotonic()
    with context.stage("evaluate", round_number):
        run.event(SUITE, table=table.path, suite=spec, **settings)
        run_suite(context, suite, measured.model, table, {SUITE: spec, **settings}, label, measured.trained_on)
    run.event(MEASURED, table=table.path, student=measured.student, seconds=round(time.monotonic() - started, 1))


def clear_another(context: Context, spec: str, table: Table) -> None:
    """Deletes the results in `table`, finished or not, if their suite or its settings are others, and says so.

    `a:Capitals` and `b:Capitals` have the same table.
    """
    run = context.run
    manifest = run.done(table)
    # An unfinished table has no manifest; the last event has the suite of its rows.
    begun = [event for event in run.events(SUITE) if event["table"] == table.path][-1:]
    for noted in [manifest.extra] if manifest is not None else begun:
        if not _is_of(noted, context.config, spec):
            whose = other if (other := noted.get(SUITE, spec)) != spec else f"{spec} with other settings or items"
            context.progress.say(f"{table} has the results of {whose}: they are deleted, and {spec} runs")
            run.clear_working(table)
            run.clear(table)


def is_done(run: Run, config: Config, spec: str, table: Table) -> bool:
    """Returns whether the results in `table` are finished, and those of the suite `spec` with the config's settings."""
    manifest = run.done(table)
    return manifest is not None and _is_of(manifest.extra, config, spec)


def _is_of(noted: Mapping[str, Any], config: Config, spec: str) -> bool:
    settings = settings_of(config, spec)
    return noted.get(SUITE, spec) == spec and noted.get(SETTINGS, settings) == settings


def run_suite(
    context: Context,
    suite: Suite,
    model: str,
    table: Table,
    extra: dict[str, Any] | None = None,
    label: str | None = None,
    trained_on: Sequence[Table] | None = None,
) -> None:
    """Writes the results of a suite for the student `model` (HF folder or name); `extra` goes into the manifest.

    `label` is the name of the stage in the progress; without it, that of the table. `trained_on` are the training rows
    of the student, whose items get a mark in the columns of MARKS; None if they are not known.

    The results of a suite without items are an empty table. Raises StageError if results are missing or too many items
    failed.
    """
    # The layout knows the table but not the columns of a suite of the user's own.
    table = replace(table, schema=pa.schema([*suite.schema, *(MARKS if suite.decontaminated else ())]))
    count = suite.count()
    if not count:
        context.run.publish(table, extra=extra)
        return
    evaluated = EvaluatedModel(model, functools.partial(_answer_turns, context, suite, model, table, count))
    rows = suite.results(context.remaining(table, suite.items()), evaluated)
    if suite.decontaminated:
        found = None if trained_on is None else contaminated_items(context, suite, trained_on)
        rows = context.map(rows, with_marks, found=found)
    with answering(context, table):
        context.write(table, rows, label or f"evaluate on {table.name}", count, extra)
    for turn in range(1, suite.turns):
        context.run.clear(_of_turn(table, turn))


def _of_turn(table: Table, turn: int) -> Table:
    """Returns the table of the answers to a turn that is not the last."""
    return table.working(f"turn_{turn}")


def _answer_turns(
    context: Context, suite: Suite, model: str, table: Table, count: int, rows: ray.data.Dataset
) -> ray.data.Dataset:
    """Returns the rows with the student's answer to each of their turns; lazy for the last turn only.

    Every other turn is first written to a table of its own.
    """
    left = count - context.run.kept(table)
    for turn in range(1, suite.turns):
        answered = _of_turn(table, turn)
        if not context.run.done(answered):
            asked = _answer_turn(context, model, turn, answered, left, context.remaining(answered, rows))
            with answering(context, answered):
                context.write(answered, asked, f"turn {turn} for {table}", left)
        rows = context.remaining(table, context.read(answered))
    return _answer_turn(context, model, suite.turns, table, count, rows)


def _answer_turn(
    context: Context, model: str, turn: int, table: Table, expected: int, rows: ray.data.Dataset
) -> ray.data.Dataset:
    """Returns the rows with the answer to a turn. After turn 1, failed rows and those without a further turn pass."""
    if turn == 1:
        return answer(context, rows, model, table, expected)
    asked = answer(context, context.map(rows, _next_turn), model, table, expected)
    passed = context.map(rows, _without_next_turn)
    # `union` needs equal schemas.
    asked, passed = (context.map(part, conform, schema=table.row_schema) for part in (asked, passed))
    return asked.union(passed)


def _next_turn(batch: pa.Table) -> pa.Table:
    """Returns the rows with a further turn; the student's answer and that turn are appended to `messages`."""
    rows = batch.filter(_has_next_turn(batch)).to_pylist()
    for row in rows:
        question, *row[FOLLOW_UPS] = row[FOLLOW_UPS]
        answered = {"role": "assistant", "content": row["student_response"]}
        row["messages"] += [answered, {"role": "user", "content": question}]
    return conform(rows, batch.schema)


def _without_next_turn(batch: pa.Table) -> pa.Table:
    return batch.filter(pc.invert(_has_next_turn(batch)))


def _has_next_turn(batch: pa.Table) -> pa.ChunkedArray:
    turns = pc.fill_null(pc.list_value_length(batch[FOLLOW_UPS]), 0)
    return pc.and_(pc.equal(batch["status"], OK), pc.greater(turns, 0))


def note_holdout(context: Context, table: Table, round_number: int) -> None:
    """Logs the student's score after a round, over the reporting half of the holdout; nothing without scored rows."""
    config = context.config
    score = reported_score(context.run, table, config.random_seed, config.holdout.select_share)
    if score["rows"]:
        context.note_round(ON_HOLDOUT, round_number, holdout_score=score["mean"], rows=score["rows"])
