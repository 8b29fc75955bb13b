"""Score: measures the difficulty of each candidate. Plan: decides δ, α and the expansions of the round."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from tapir_ray.curriculum.difficulty import with_difficulty
from tapir_ray.curriculum.measures import load_measure
from tapir_ray.curriculum.plan import Plan
from tapir_ray.curriculum.quotas import apportion
from tapir_ray.curriculum.sampling import Cutoffs, count_cells, cutoffs, take_table
from tapir_ray.curriculum.stats import NEEDED, OPTIONAL, score_stats
from tapir_ray.data.schemas import HOLDOUT, OK, SCORED, conform, with_columns
from tapir_ray.run.layout import Table
from tapir_ray.steps.answer import answer_and_judge, answering
from tapir_ray.steps.context import PLANNED, Context
from tapir_ray.steps.evaluate import note_holdout
from tapir_ray.steps.train import student_after

CANDIDATE = "candidate"
COUNTED = ["split", *NEEDED, *(name for name in OPTIONAL if name in SCORED.names)]
"""Columns of a scored table that a plan needs."""
SHOWN = {"alpha", "threshold", "hard", "easy", "teacher_score", "student_score"}
"""Fields of a plan in its event."""


def score(context: Context, round_number: int) -> None:
    """Writes `rounds/NN/candidates` and `rounds/NN/scored`, with the difficulty of every candidate.

    The holdout is scored in the same pipeline, so that one engine start a round also gives the student's score before
    the round.
    """
    run, spec = context.run, context.config.curriculum.difficulty.measure
    scored, candidates = context.loop.round(round_number).scored, context.loop.round(round_number).candidates
    if run.done(scored):
        return
    with context.stage("score", round_number):
        if not run.done(candidates):
            _select(context, round_number, candidates)
        times, expected = _times_trained(context, round_number, candidates), run.manifest(candidates).rows
        rows = context.remaining(scored, context.read(candidates))
        rows = context.map(rows, _with_times, times=times)
        rows = answer_and_judge(
            context, rows, student_after(context, round_number - 1), scored, expected, load_measure(spec)
        )
        rows = context.map(rows, with_difficulty, spec=spec)
        with answering(context, scored):
            context.write(scored, rows, f"round {round_number} score", expected)


def plan(context: Context, round_number: int) -> Plan:
    """Returns the round's plan, from the scores of the candidates without the holdout; writes `rounds/NN/plan.json`."""
    tables = context.loop.round(round_number)
    rows = context.map(context.read(tables.scored, columns=COUNTED), without_holdout)
    stats = score_stats(rows, context.config.judge.min_teacher_score, context.transform_cpus)
    context.curriculum.observe(round_number, stats)
    made = context.curriculum.plan(round_number)
    # A restarted run gets the stored plan and must not log it twice. A retry of the scores has deleted it.
    if context.run.find_json(tables.plan) is None:
        note_holdout(context, tables.scored, round_number - 1)
        numbers = made.model_dump(include=SHOWN)
        context.note_round(PLANNED, round_number, **numbers, difficulty=stats.mean_difficulty)
        context.run.write_json(tables.plan, {"plan": made.model_dump(mode="json")})
        context.progress.say(
            f"round {round_number} plan: α {made.alpha:g}, δ {made.threshold:g}, {made.hard} hard and {made.easy} easy"
        )
        for warning in made.warnings:
            context.progress.say(f"round {round_number} plan: {warning}")
    return made


def without_holdout(batch: pa.Table) -> pa.Table:
    """Returns the rows that are not of the holdout: those that may be planned with and trained on."""
    return batch.filter(pc.not_equal(batch["split"], HOLDOUT))


def _select(context: Context, round_number: int, table: Table) -> None:
    """Writes the candidates: up to `score.max_rows` seed and generated rows by task weights, and all of the holdout."""
    config, cpus = context.config, context.transform_cpus
    instructions, *generated = table.inputs
    # A round that began with an imported training set has no generated rows.
    tables = [instructions, *(made for made in generated if context.run.done(made))]
    rows = context.map(context.read(*tables), _scorable)
    counts = count_cells(rows, config.random_seed, (round_number, "score"), transform_cpus=cpus)
    found = {task: n for (_, task), (n, _) in counts.capacities.items()}
    weights = context.taxonomy.effective_weights(found)
    room = {task: n for task, n in found.items() if task in weights}
    shares = apportion(min(config.score.max_rows, sum(room.values())), room, weights)
    quota = {(CANDIDATE, task): count for task, count in shares.items()}
    chosen = cutoffs(rows, counts, quota, transform_cpus=cpus)
    rows = context.map(rows, _candidates, chosen=chosen)
    context.write(table, rows, f"round {round_number} candidates")


def _scorable(batch: pa.Table) -> pa.Table:
    """Returns the ok rows with an answer to compare with, in cells by task; holdout rows are in no cell."""
    batch = batch.filter(pc.and_(pc.equal(batch["status"], OK), pc.is_valid(batch["response"])))
    pool = pc.if_else(pc.equal(batch["split"], HOLDOUT), None, CANDIDATE)
    return with_columns(batch, pool=pool)


def _candidates(batch: pa.Table, chosen: Cutoffs) -> pa.Table:
    held = batch.filter(pc.equal(batch["split"], HOLDOUT))
    return pa.concat_tables([conform(take_table(batch, chosen), SCORED), conform(held, SCORED)])


def _times_trained(context: Context, round_number: int, candidates: Table) -> Counter[str]:
    """Returns how often each candidate has been in a training set; the driver holds the ids of the candidates."""
    run = context.run
    tables = [context.loop.training(before) for before in range(round_number)]
    files = [path for table in tables if run.done(table) for path in run.files(table)]
    ids = pa.concat_arrays([batch["instruction_id"] for batch in run.scan(candidates, ["instruction_id"])])
    times: Counter[str] = Counter()
    if files:
        dataset = pads.dataset(files, filesystem=run.fs, format="parquet")
        # The filter runs while scanning, so the training sets never come into memory whole.
        mine = (pads.field("status") == OK) & pads.field("instruction_id").isin(ids)
        for batch in dataset.to_batches(columns=["instruction_id"], filter=mine):
            times.update(batch["instruction_id"].to_pylist())
    return times


def _with_times(batch: pa.Table, times: Counter[str]) -> pa.Table:
    counts = [times[row_id] for row_id in batch["instruction_id"].to_pylist()]
    return with_columns(batch, times_trained=pa.array(counts, pa.int64()))
