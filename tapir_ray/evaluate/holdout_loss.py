"""Holdout loss of a student by task, from the losses that each training recorded."""

from __future__ import annotations

from collections import defaultdict

import pyarrow.compute as pc

from tapir_ray.data.schemas import HOLDOUT, pair_id
from tapir_ray.evaluate.suite import NO_TASK
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run
from tapir_ray.train.loop import RESULT_FILE


def tasks_of_holdout(run: Run, layout: LoopLayout) -> dict[str, str]:
    """Returns the task of each holdout pair by pair id; `(no task)` for a pair without one."""
    tasks: dict[str, str] = {}
    columns = ["instruction_id", "split", "task"]
    labelled = layout.instructions
    for batch in run.scan(labelled, columns) if run.done(labelled) else ():
        for row in batch.filter(pc.equal(batch["split"], HOLDOUT)).to_pylist():
            tasks[pair_id(row["instruction_id"], 0)] = row["task"] or NO_TASK
    return tasks


def holdout_loss_by_task(run: Run, student: Table, tasks: dict[str, str], before: bool = False) -> dict[str, float]:
    """Returns the holdout loss of a student by task, in nats a response token; empty if it was not trained.

    With `before` it is the loss before the training of that round. `tasks` is the result of `tasks_of_holdout`.
    """
    result = f"{student}/{RESULT_FILE}"
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    # Results of older trainings have no losses by pair.
    noted = run.find_json(result) or {}
    for pair, (loss, tokens) in noted.get("holdout_pairs_before" if before else "holdout_pairs", {}).items():
        sums[tasks.get(pair, NO_TASK)][0] += loss
        sums[tasks.get(pair, NO_TASK)][1] += tokens
    # Sums over tokens, not a mean of means: a long response counts for all of its tokens.
    return {task: round(loss / tokens, 4) for task, (loss, tokens) in sorted(sums.items()) if tokens}
