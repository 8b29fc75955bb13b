"""Score: measures the difficulty of each candidate. Plan: decides δ, α and the expansions of the round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import ray.data

from tapir_ray.curriculum.difficulty import PROBE, with_difficulty
from tapir_ray.curriculum.measures import configured_measure
from tapir_ray.curriculum.plan import Plan
from tapir_ray.curriculum.quotas import Cell, apportion
from tapir_ray.curriculum.sampling import Cutoffs, count_cells, cutoffs, take_table
from tapir_ray.curriculum.sources import probe_share
from tapir_ray.curriculum.stats import NEEDED, OPTIONAL, score_stats
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.data.schemas import HOLDOUT, INSTRUCTIONS, OK, SCORED, conform, in_share, with_columns
from tapir_ray.errors import StageError
from tapir_ray.run.layout import Table
from tapir_ray.steps.answer import answer_and_judge, answering
from tapir_ray.steps.context import PLANNED, Context
from tapir_ray.steps.evaluate import note_holdout
from tapir_ray.steps.row_ids import annotated_ids, trained_ids, without_ids
from tapir_ray.steps.train import student_after

CANDIDATE = "candidate"
CELLED = pa.schema([*INSTRUCTIONS, ("pool", pa.string())])
"""Rows that may be candidates; `pool` is `candidate`, `probe`, or null for the holdout."""
COUNTED = ["split", *NEEDED, *(name for name in OPTIONAL if name in SCORED.names)]
"""Columns of a scored table that a plan needs."""
SHOWN = {"alpha", "threshold", "ceiling", "hard", "easy", "seen", "unseen", "teacher_score", "student_score"}
"""Fields of a plan in its event."""
HELD = "held"
"""Working table of the scored holdout, if only the holdout is scored."""


def score(context: Context, round_number: int) -> None:
    """Writes `rounds/NN/candidates` and `rounds/NN/scored`, with the difficulty of every candidate.

    The holdout is scored in the same pipeline, so that one engine start a round also gives the student's score before
    the round. Without `Config.scores_candidates` it alone is answered and scored.
    """
    run, spec = context.run, context.config.curriculum.difficulty.measure
    scored, candidates = context.loop.any_round(round_number).scored, context.loop.any_round(round_number).candidates
    if run.done(scored):
        return
    with context.stage("score", round_number):
        if not run.done(candidates):
            select_candidates(context, round_number, candidates)
        times, expected = _times_trained(context, round_number, candidates), run.manifest(candidates).rows
        label = f"round {round_number} score"
        if not context.config.scores_candidates:
            _score_holdout(context, round_number, label)
            rows = _with_holdout(context, scored, candidates)
            context.write(scored, context.map(rows, _with_times, times=times), label, expected)
            run.clear(scored.working(HELD))
            return
        rows = context.remaining(scored, context.read(candidates))
        rows = context.map(rows, _with_times, times=times)
        needs = configured_measure(context.config.curriculum.difficulty)
        rows = answer_and_judge(context, rows, student_after(context, round_number - 1), scored, expected, needs)
        rows = context.map(rows, with_difficulty, spec=spec)
        with answering(context, scored):
            context.write(scored, rows, label, expected)


def _score_holdout(context: Context, round_number: int, label: str) -> None:
    """Writes the working table of the holdout rows that `scored` lacks, with their answers and scores."""
    tables, spec = context.loop.any_round(round_number), context.config.curriculum.difficulty.measure
    held = tables.scored.working(HELD)
    if context.run.done(held):
        return
    # A retry has left the rows that did not fail in `scored`.
    rows = context.map(context.remaining(tables.scored, context.read(tables.candidates)), only_holdout)
    count = rows.count()
    if not count:
        context.run.publish(held)
        return
    rows, model = context.remaining(held, rows), student_after(context, round_number - 1)
    rows = answer_and_judge(context, rows, model, held, count, configured_measure(context.config.curriculum.difficulty))
    rows = context.map(rows, with_difficulty, spec=spec)
    with answering(context, held):
        context.write(held, rows, f"{label} of the holdout", count)


def _with_holdout(context: Context, scored: Table, candidates: Table) -> ray.data.Dataset:
    """Returns the rows that `scored` lacks: the scored holdout, and all other candidates as they are. Lazy."""
    rows = context.map(context.read(candidates), without_holdout)
    rows = context.map(rows, conform, schema=scored.row_schema)
    if context.run.manifest(scored.working(HELD)).rows:
        held = context.read(scored.working(HELD))
        rows = rows.union(context.map(held, conform, schema=scored.row_schema))
    return context.remaining(scored, rows)


def plan(context: Context, round_number: int) -> Plan:
    """Returns the round's plan, from the scores of the candidates without the holdout; writes `rounds/NN/plan.json`."""
    tables = context.loop.any_round(round_number)
    rows = context.map(context.read(tables.scored, columns=COUNTED), without_holdout)
    stats = score_stats(rows, context.config.judge.min_teacher_score, context.transform_cpus)
    context.curriculum.observe(round_number, stats)
    made = context.curriculum.plan(round_number)
    # A restarted run gets the stored plan and must not log it twice. A retry of the scores has deleted it.
    if context.run.find_json(tables.plan) is None:
        note_holdout(context, tables.scored, round_number - 1)
        numbers = made.model_dump(include=SHOWN if made.ceiling is not None else SHOWN - {"ceiling"})
        numbers |= {f"draws_{source}": sum(tasks.values()) for source, tasks in made.sources.items()}
        by_task = {task: of_task.student_score for task, of_task in stats.by_task.items() if of_task.judged}
        context.note_round(PLANNED, round_number, **numbers, difficulty=stats.mean_difficulty, student_scores=by_task)
        context.run.write_json(tables.plan, {"plan": made.model_dump(mode="json")})
        context.progress.say(f"round {round_number} plan: {made.in_words}")
        for line in [*filter(None, [made.weights_in_words]), *made.warnings]:
            context.progress.say(f"round {round_number} plan: {line}")
    return made


def without_holdout(batch: pa.Table) -> pa.Table:
    """Returns the rows that are not of the holdout: those that may be planned with and trained on."""
    return batch.filter(pc.not_equal(batch["split"], HOLDOUT))


def only_holdout(batch: pa.Table) -> pa.Table:
    """Returns the rows of the holdout."""
    return batch.filter(pc.equal(batch["split"], HOLDOUT))


def select_candidates(context: Context, round_number: int, table: Table) -> None:
    """Writes the candidates: up to `score.max_rows` seed and generated rows by task weights, and all of the holdout.

    The probes of the round before are taken first. With `score.candidates: unseen`, rows that were trained on are none.
    Raises StageError if that leaves no row.
    """
    config, cpus = context.config, context.transform_cpus
    # A pool without further questions ends a run of ELAD, as a budget does (`annotate.budget_of`).
    elad = config.work == "elad"
    rows = _scorable_rows(context, round_number, table)
    if config.score.candidates == "unseen":
        trained = annotated_ids(context, round_number) if elad else trained_ids(context, round_number)
        rows = without_ids(context, rows, trained)
    counts = count_cells(rows, config.random_seed, (round_number, "score"), transform_cpus=cpus)
    if config.score.candidates == "unseen" and not counts.capacities and not elad:
        raise StageError(
            f"round {round_number}: score.candidates unseen leaves no candidate, as all rows with a task are among the "
            f"{len(trained)} that were trained on: set train.initial_share below 1, raise expand.probe_share, or set "
            "score.candidates all"
        )
    quota = candidate_quota(counts.capacities, config.score.max_rows, context.taxonomy)
    chosen = cutoffs(rows, counts, quota, transform_cpus=cpus)
    rows = context.map(rows, _candidates, chosen=chosen)
    context.write(table, rows, f"round {round_number} candidates")


def candidate_quota(found: Mapping[Cell, tuple[int, int]], max_rows: int, taxonomy: Taxonomy) -> dict[Cell, int]:
    """Returns the rows to take from each cell: up to `max_rows` by task weights, and of a task its probes first."""
    total: Counter[str] = Counter()
    for (_, task), (n, _) in found.items():
        total[task] += n
    weights = taxonomy.effective_weights(total)
    room = {task: n for task, n in total.items() if task in weights}
    quota: dict[Cell, int] = {}
    for task, share in apportion(min(max_rows, sum(room.values())), room, weights).items():
        probes = min(share, found.get((PROBE, task), (0, 0))[0])
        quota |= {(PROBE, task): probes} if probes else {}
        quota[CANDIDATE, task] = share - probes
    return quota


def _scorable_rows(context: Context, round_number: int, table: Table) -> ray.data.Dataset:
    """Returns the rows that may be candidates, in cells by pool and task. Lazy."""
    instructions, *generated = table.inputs
    if context.config.work == "elad":
        return context.map(context.read(instructions), scorable if context.config.answers_pool else askable)
    # A round that began with an imported training set has no generated rows.
    tables = [instructions, *(made for made in generated if context.run.done(made))]
    share = probe_share(round_number - 1, context.config)
    if not share or tables[-1] not in generated[-1:]:
        return context.map(context.read(*tables), scorable)
    # Apart, because a table that is read after the seed data loses the columns that the seed data does not have.
    probed = context.map(context.read(tables[-1]), scorable, probe_share=share, random_seed=context.config.random_seed)
    others = context.map(context.read(*tables[:-1]), scorable)
    return context.map(others, conform, schema=CELLED).union(context.map(probed, conform, schema=CELLED))


def scorable(batch: pa.Table, probe_share: float = 0.0, random_seed: int = 0) -> pa.Table:
    """Returns the ok rows with an answer to compare with, in cells by task; holdout rows are in no cell.

    With a `probe_share` the rows are generated ones, and their probes are in cells of their own.
    """
    batch = batch.filter(pc.and_(pc.equal(batch["status"], OK), pc.is_valid(batch["response"])))
    pool = pc.if_else(pc.equal(batch["split"], HOLDOUT), None, CANDIDATE)
    if probe_share:
        pool = pc.if_else(probes(batch, probe_share, random_seed), PROBE, pool)
    return with_columns(batch, pool=pool)


def askable(batch: pa.Table) -> pa.Table:
    """Returns the ok rows, with an answer or without, in cells by task; holdout rows are in no cell and need one."""
    held = pc.equal(batch["split"], HOLDOUT)
    usable = pc.or_(pc.invert(held), pc.is_valid(batch["response"]))
    batch = batch.filter(pc.and_(pc.equal(batch["status"], OK), usable))
    return with_columns(batch, pool=pc.if_else(pc.equal(batch["split"], HOLDOUT), None, CANDIDATE))


def probes(generated: pa.Table, share: float, random_seed: int) -> pa.Array:
    """Returns for each generated row whether it is a probe: a share of all, by a hash of its draw and the seed."""
    drawn = generated["draw_id"].to_pylist()
    return pa.array([in_share(draw, random_seed, share, "probe") for draw in drawn], pa.bool_())


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
