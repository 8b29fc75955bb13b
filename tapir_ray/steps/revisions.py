"""Training set of a round of ELAD: the revised explanations, of a question only the latest one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.data.schemas import ANNOTATION, OK, TRAINING, conform, pair_id, with_columns
from tapir_ray.errors import StageError
from tapir_ray.steps.annotate import note_plan
from tapir_ray.steps.context import Context
from tapir_ray.steps.row_ids import ids_of, without_ids
from tapir_ray.steps.train import student_after
from tapir_ray.transforms.count_tokens import count_tokens
from tapir_ray.transforms.mark_style import mark_style


def mix(context: Context, round_number: int) -> None:
    """Writes `rounds/NN/training`: this round's revisions, or with `train.data: cumulative` those of all rounds so far.

    A later revision replaces earlier ones of the same question. Raises StageError without a usable revision.
    """
    run, config, tables = context.run, context.config, context.elad.elad_round(round_number)
    with context.stage("mix", round_number):
        made = note_plan(context, round_number)
        rows = _revisions(context, round_number)
        if rows is None:
            raise StageError(f"{tables.annotated} holds no usable revision; see the reasons in it")
        model = student_after(context, round_number - 1)
        rows = count_tokens(rows, model, config.student, config.train, context.transform_cpus)
        # Before the table, which marks the round as mixed: a killed attempt must not leave a mix without its plan.
        run.write_json(tables.plan, {"plan": {}, "mix": {}, "elad": made})
        context.write(tables.training, rows, f"round {round_number} mix")


def _revisions(context: Context, round_number: int) -> ray.data.Dataset | None:
    first = 1 if context.config.train.data == "cumulative" else round_number
    annotated = [context.elad.elad_round(number).annotated for number in range(first, round_number + 1)]
    found: ray.data.Dataset | None = None
    for position, table in enumerate(annotated):
        if not (done := context.run.manifest(table)).count(OK):
            continue
        later = annotated[position + 1 :]
        rows = without_ids(context, context.read(table), ids_of(context, later, status=OK)) if done.rows else None
        assert rows is not None
        rows = context.map(rows, mark_style) if context.config.rewrite.mark else rows
        rows = context.map(rows, as_pairs)
        found = rows if found is None else found.union(rows)
    return found


def as_pairs(annotated: pa.Table) -> pa.Table:
    """Returns the usable annotations as training rows, each once."""
    rows = annotated.filter(pc.and_(pc.equal(annotated["status"], OK), pc.is_valid(annotated["response"])))
    ids = [pair_id(row_id, 0) for row_id in rows["instruction_id"].to_pylist()]
    copies = pa.array([0] * len(rows), pa.int64())
    return conform(with_columns(rows, pair_id=pa.array(ids, pa.string()), copy=copies, pool=ANNOTATION), TRAINING)
