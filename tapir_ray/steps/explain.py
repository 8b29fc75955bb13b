"""Explain: the student explains the questions of a round in steps, and the most uncertain ones are chosen (EGSS).

ELAD (arXiv 2402.13098). vLLM's prefix caching, on by default, computes the question and a prefix once for all of its
continuations, in whole blocks of tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.curriculum.step_uncertainty import Uncertainty, chosen, chosen_by_task, disagreement
from tapir_ray.data.schemas import (
    CONTINUED,
    EXPLAINED,
    HOLDOUT,
    OK,
    SEED,
    SELECTED,
    conform,
    prefix_id,
    with_columns,
)
from tapir_ray.run.layout import EladRound, Table
from tapir_ray.steps.answer import answer, answering
from tapir_ray.steps.context import Context
from tapir_ray.steps.train import student_after
from tapir_ray.transforms.explanation import final_answers, split_steps


def explain(context: Context, round_number: int, annotations: int) -> None:
    """Writes `rounds/NN/explained`, `continued` and `selected`, with `annotations` chosen questions.

    Under `elad.select: uncertain` all candidates are explained, and the chosen ones have the highest uncertainty.
    Otherwise only those that are annotated are explained, once.
    """
    tables, run = context.elad.elad_round(round_number), context.run
    if run.done(tables.selected):
        return
    with context.stage("explain", round_number):
        _explain(context, tables, round_number, annotations)
        if tables.continued is None:
            found, picked = {}, None
        else:
            _continue(context, tables, tables.continued, round_number)
            found = _uncertainties(context, tables.explained, tables.continued)
            totals = {row_id: one.total for row_id, one in found.items()}
            picked = _chosen(context, tables.scored, totals, round_number, annotations)
        rows = context.map(context.read(tables.explained), with_selection, found=found, picked=picked,
                           pattern=context.config.elad.step_pattern)  # fmt: skip
        context.write(tables.selected, rows, f"round {round_number} select")


def _explain(context: Context, tables: EladRound, round_number: int, annotations: int) -> None:
    run, settings, table = context.run, context.config.elad, tables.explained
    if run.done(table):
        return
    picked = None if tables.continued is not None else _picked(context, tables.scored, round_number, annotations)
    count = 0
    for batch in run.scan(tables.scored, ["instruction_id", "split", "status"]):
        count += len(to_explain(pa.Table.from_batches([batch]), picked))
    if not count:
        run.publish(table)
        return
    rows = context.map(context.read(tables.scored), _as_explained, picked=picked)
    rows, model = context.remaining(table, rows), student_after(context, round_number - 1)
    samples = 0 if tables.continued is None else settings.samples
    rows = answer(context, rows, model, table, count, samples, settings.temperature)
    with answering(context, table):
        context.write(table, rows, f"round {round_number} explain", count)


def _continue(context: Context, tables: EladRound, table: Table, round_number: int) -> None:
    run, settings = context.run, context.config.elad
    if run.done(table):
        return
    splitting = {"pattern": settings.step_pattern, "most": settings.max_prefixes}
    count = 0
    for batch in run.scan(tables.explained, ["student_response", "status"]):
        explained = pa.Table.from_batches([batch])
        texts = explained.filter(pc.equal(explained["status"], OK))["student_response"].to_pylist()
        count += sum(len(split_steps(text or "", settings.step_pattern).prefixes(settings.max_prefixes))
                     for text in texts)  # fmt: skip
    if not count:
        run.publish(table)
        return
    rows = context.map(context.read(tables.explained), prefix_rows, **splitting, temperature=settings.temperature)
    rows, model = context.remaining(table, rows), student_after(context, round_number - 1)
    # The first answer is sampled too, by the row's own temperature, so k − 1 more make k.
    rows = answer(context, rows, model, table, count, settings.samples - 1, settings.temperature)
    rows = context.map(rows, with_step_uncertainty)
    with answering(context, table):
        context.write(table, rows, f"round {round_number} continue", count)


def _picked(context: Context, scored: Table, round_number: int, annotations: int) -> set[str]:
    """Returns the ids of random candidates, or of those with the highest difficulty."""
    by_difficulty, values = context.config.elad.select == "mfd", {}
    for batch in context.run.scan(scored, ["instruction_id", "split", "status", "difficulty"]):
        rows = to_explain(pa.Table.from_batches([batch]))
        for row_id, difficulty in zip(rows["instruction_id"].to_pylist(), rows["difficulty"].to_pylist(), strict=True):
            if not by_difficulty or difficulty is not None:
                values[row_id] = difficulty if by_difficulty else 0.0
    return _chosen(context, scored, values, round_number, annotations)


def _chosen(
    context: Context, scored: Table, values: Mapping[str, float], round_number: int, annotations: int
) -> set[str]:
    """Returns the ids of the highest values, within the tasks' shares unless `elad.quota` is `none`."""
    seed = context.config.random_seed
    if context.config.elad.quota == "none":
        return chosen(values, annotations, seed, round_number, "elad")
    tasks: dict[str, str] = {}
    for batch in context.run.scan(scored, ["instruction_id", "task"]):
        found = zip(batch["instruction_id"].to_pylist(), batch["task"].to_pylist(), strict=True)
        tasks |= {row_id: task for row_id, task in found if row_id in values}
    weights = context.taxonomy.effective_weights(set(tasks.values())) if tasks else {}
    return chosen_by_task(values, tasks, annotations, weights, seed, round_number, "elad")


def to_explain(scored: pa.Table, picked: set[str] | None = None) -> pa.Table:
    """Returns the ok candidates without the holdout, or those of them whose ids are `picked`."""
    keep = pc.and_(pc.equal(scored["status"], OK), pc.not_equal(scored["split"], HOLDOUT))
    if picked is not None:
        keep = pc.and_(keep, pc.is_in(scored["instruction_id"], pa.array(sorted(picked), pa.string())))
    return scored.filter(keep)


def _as_explained(batch: pa.Table, picked: set[str] | None) -> pa.Table:
    return conform(with_columns(to_explain(batch, picked), student_response=None), EXPLAINED)


def prefix_rows(explained: pa.Table, pattern: str, most: int, temperature: float) -> pa.Table:
    """Returns a row for each prefix of the explanations (CONTINUED), to be continued at `temperature`."""
    rows = []
    for row in explained.filter(pc.equal(explained["status"], OK)).to_pylist():
        found = split_steps(row["student_response"] or "", pattern)
        for steps in found.prefixes(most):
            own = {"prefix_id": prefix_id(row["instruction_id"], steps), "steps": steps, "split": SEED}
            asked = {"answer_prefix": found.before(steps), "answer_temperature": temperature}
            empty = dict.fromkeys(("student_response", "student_samples", "prompt_tokens", "answer_tokens"))
            rows.append({**row, **empty, **own, **asked})
    return conform(rows, CONTINUED)


def with_step_uncertainty(continued: pa.Table) -> pa.Table:
    """Returns the continuations with `step_uncertainty`, u_j of each prefix; null for a row without an answer."""
    values = [
        disagreement(final_answers(row["answer_prefix"], [row["student_response"], *(row["student_samples"] or ())]))
        if row["status"] == OK
        else None
        for row in conform(continued, CONTINUED).to_pylist()
    ]
    return with_columns(continued, step_uncertainty=pa.array(values, pa.float64()))


def _uncertainties(context: Context, explained: Table, continued: Table) -> dict[str, Uncertainty]:
    """Returns the uncertainties by id; the driver holds the numbers of all candidates, and no texts."""
    by_step: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for batch in context.run.scan(continued, ["instruction_id", "steps", "step_uncertainty"]):
        for row in batch.to_pylist():
            if row["step_uncertainty"] is not None:
                by_step[row["instruction_id"]].append((row["steps"], row["step_uncertainty"]))
    found = {}
    for batch in context.run.scan(explained, ["instruction_id", "status", "student_samples"]):
        for row in batch.to_pylist():
            if row["status"] == OK:
                steps = tuple(value for _, value in sorted(by_step[row["instruction_id"]]))
                whole = disagreement(final_answers("", row["student_samples"] or ()))
                found[row["instruction_id"]] = Uncertainty(steps, whole)
    return found


def with_selection(
    explained: pa.Table, found: Mapping[str, Uncertainty], picked: set[str] | None, pattern: str
) -> pa.Table:
    """Returns the explanations with their steps and uncertainties (SELECTED); `picked` None chooses all ok rows."""
    rows = explained.to_pylist()
    for row in rows:
        steps = split_steps(row["student_response"] or "", pattern).steps if row["status"] == OK else None
        row |= {"steps": steps, "chosen": row["status"] == OK and (picked is None or row["instruction_id"] in picked)}
        if (one := found.get(row["instruction_id"])) is not None:
            row |= {"step_uncertainty": one.by_step, "disagreement": one.disagreement, "uncertainty": one.total}
    return conform(rows, SELECTED)
