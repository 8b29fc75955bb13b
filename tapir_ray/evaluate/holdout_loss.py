"""The student's loss on the holdout by task, from what each training noted."""

from __future__ import annotations

from collections import defaultdict

import pyarrow.compute as pc

from tapir_ray.data.schemas import HOLDOUT, pair_id
from tapir_ray.evaluate.suite import NO_TASK
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run
from tapir_ray.train.loop import RESULT_FILE


def tasks_of_holdout(run: Run, layout: LoopLayout) -> dict[str, str]:
    """The task of each pair of the holdout, by its id."""
    tasks: dict[str, str] = {}
    columns = ["instruction_id", "split", "task"]
    labelled = layout.instructions
    for batch in run.scan(labelled, columns) if run.done(labelled) else ():
        for row in batch.filter(pc.equal(batch["split"], HOLDOUT)).to_pylist():
            tasks[pair_id(row["instruction_id"], 0)] = row["task"] or NO_TASK
    return tasks


def holdout_loss_by_task(run: Run, student: Table, tasks: dict[str, str], before: bool = False) -> dict[str, float]:
    """The holdout's loss of a trained student, or of it `before` its training (nats a response token), by task.

    `tasks` are those of `tasks_of_holdout`. Empty if it was not trained.
    """
    result = f"{student}/{RESULT_FILE}"
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    # A round that was trained before pairs were noted has none.
    noted = run.find_json(result) or {}
    for pair, (loss, tokens) in noted.get("holdout_pairs_before" if before else "holdout_pairs", {}).items():
        sums[tasks.get(pair, NO_TASK)][0] += loss
        sums[tasks.get(pair, NO_TASK)][1] += tokens
    return {task: round(loss / tokens, 4) for task, (loss, tokens) in sorted(sums.items()) if tokens}
