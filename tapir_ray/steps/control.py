"""Control: a second student next to the rounds, trained on as many tokens without the curriculum.

    control.control(context, round_number)        # after the training of the round
    control.compare(context)                      # after the evaluation of the last student

`control: sft` trains on the seed data alone. The seed rows form an endless sequence of epochs, each in a random order
of its own, and every round takes the next tokens of it: as many as the curriculum's round has packed, to within one
row. So no row is repeated before all were used, in any round.

`control: random` first takes the round's new instructions like random seed rows (`control_expansions.py`), each once,
and fills up with seed rows. If they have more tokens than the round, it takes a random part of them.

Both students begin at `checkpoints/00`, and train with the same learning rate, schedule and batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.curriculum.sampling import Cut, Cutoffs, count_cells, cutoffs, take_table
from tapir_ray.data.schemas import OK, TRAINING, conform, pair_id, with_columns
from tapir_ray.errors import StageError
from tapir_ray.evaluate.control_gain import control_gain, sentence
from tapir_ray.evaluate.holdout import HoldoutSuite
from tapir_ray.run.layout import Table
from tapir_ray.steps.context import OVER_CONTROL, Context
from tapir_ray.steps.control_expansions import expansions
from tapir_ray.steps.evaluate import run_suite
from tapir_ray.steps.train import (
    Training,
    base_student,
    fit,
    packed_holdout,
    pairs,
    round_rate,
    start_of_round,
    student_in,
)
from tapir_ray.transforms.count_tokens import count_tokens
from tapir_ray.transforms.mark_style import mark_style

SIZE, CELL = "size", "control"
POOL = pa.schema([*TRAINING, (SIZE, pa.int64())])
"""Rows that the control draws from; `size` counts the tokens of prompt and response."""
NOTHING = Cutoffs({}, 0, ())
BEGIN, END = "begin", "end"
"""Keys in the manifest of a training set: its part of the sequence of epochs of the seed rows, in tokens."""


def control(context: Context, round_number: int) -> None:
    """Writes `control/KIND/NN/{training,packed,checkpoint,holdout}`; nothing without a control.

    The gain of the round before is logged first, since this round has just scored its student. Raises StageError if no
    seed row can be used.
    """
    if not context.loop.controls:
        return
    if round_number > 1:
        note_gain(context, round_number - 1)
    tables, run = context.loop.control(round_number), context.run
    if run.done(tables.evaluation):
        return
    with context.stage("control", round_number):
        if not run.done(tables.checkpoint):
            if not run.done(tables.training):
                _draw(context, round_number)
            _train(context, round_number)
        suite = HoldoutSuite(run, context.config, context.loop, context.roles)
        label = f"round {round_number} control on the holdout"
        run_suite(context, suite, student_in(context, tables.checkpoint), tables.evaluation, label=label)


def compare(context: Context) -> None:
    """Logs the gain of every round that has no event of it yet; nothing without a control."""
    for number in range(1, len(context.loop.controls) + 1):
        note_gain(context, number)


def note_gain(context: Context, round_number: int) -> None:
    """Logs the gain of a round's student over its control, over all holdout rows; nothing without common rows."""
    run, config = context.run, context.config
    gain = control_gain(run, context.loop, round_number, config.random_seed)
    if gain is None:
        return
    numbers: dict[str, float | str] = {
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "gain_rows": gain.rows,
    }
    numbers |= {"control": config.control}
    noted = [event for event in run.events(OVER_CONTROL) if event["round"] == round_number]
    # A restarted run must not log it twice; a retry or another control changes it.
    if not noted or any(noted[-1][name] != value for name, value in numbers.items()):
        context.note_round(OVER_CONTROL, round_number, **numbers)
        context.progress.say(f"round {round_number}: {sentence(config.control, gain)}")


def _train(context: Context, round_number: int) -> None:
    loop = context.loop
    tables = loop.control(round_number)
    before = loop.sft_checkpoint if round_number == 1 else loop.control(round_number - 1).checkpoint
    training = Training(
        "control",
        round_number,
        [tables.training],
        tables.packed,
        tables.checkpoint,
        *start_of_round(context, before),
    )
    held = packed_holdout(context, loop.instructions, training.start)
    # One epoch: `train.epochs` is in the number of tokens already.
    fit(context, training, 1, round_rate(context), held)


def _draw(context: Context, round_number: int) -> None:
    """Writes the control's training set of a round; its position in the sequence of epochs is in the manifest."""
    run, loop = context.run, context.loop
    tables, wanted = loop.control(round_number), run.manifest(loop.packed(round_number)).extra["tokens"]
    begin = 0
    # A control that begins at the base again has seen none of the rows that it trained on before.
    if round_number > 1 and context.config.train.init_from == "previous":
        begin = run.manifest(loop.control(round_number - 1).training).extra[END]
    parts, left = [], wanted
    if tables.expansions is not None:
        expansions(context, round_number, SIZE)
        new = tables.expansions.new
        # Without a usable pair the table has no file to read.
        if size := _size(context, new):
            left = max(0, wanted - size)
            cut = _cut(context, _cells(context, new), (CELL, "new", round_number), min(size, wanted), size)
            parts.append(context.map(context.read(new), _drawn, epochs=[Epoch(0, NOTHING, cut)]))
    if left:
        epochs = list(_epochs(context, begin, begin + left))
        parts.append(context.map(context.read(_pool(context)), _drawn, epochs=epochs))
    rows = parts[0].union(parts[1]) if len(parts) > 1 else parts[0]
    extra = {BEGIN: begin, END: begin + left}
    context.write(tables.training, rows, f"round {round_number} control draws", extra=extra)


def _pool(context: Context) -> Table:
    """Writes `control/pool`, the seed rows that a student may train on with their tokens, and returns the table."""
    run, config, pool = context.run, context.config, context.loop.control_pool
    assert pool is not None
    if not run.done(pool):
        rows = context.read(context.loop.instructions)
        rows = context.map(rows, mark_style) if config.rewrite.mark else rows
        rows = context.map(rows, pairs)
        model = base_student(context)
        rows = count_tokens(rows, model, config.student, config.train, context.transform_cpus, SIZE)
        context.write(pool, rows, "tokens of the seed data")
    return pool


@dataclass(frozen=True)
class Epoch:
    """Part of an epoch that a round takes: the rows drawn until `end` that are not drawn until `begin`."""

    number: int
    begin: Cutoffs
    end: Cutoffs


def _epochs(context: Context, begin: int, end: int) -> Iterator[Epoch]:
    """Yields the parts of the epochs between two positions, in tokens. Raises StageError if no seed row is usable."""
    pool = _pool(context)
    size = _size(context, pool)
    if not size:
        raise StageError(f"control {context.config.control}: no seed row can be trained on; see the reasons in {pool}")
    cells = _cells(context, pool)
    for number in range(begin // size, -(-end // size)):
        start, stop = max(0, begin - number * size), min(size, end - number * size)
        yield Epoch(number, *(_cut(context, cells, (CELL, number), tokens, size) for tokens in (start, stop)))


def _size(context: Context, table: Table) -> int:
    """Returns the tokens of the usable pairs of a table."""
    batches = (batch.filter(pc.equal(batch["status"], OK)) for batch in context.run.scan(table, [SIZE, "status"]))
    return int(sum(pc.sum(batch[SIZE]).as_py() or 0 for batch in batches))


def _cut(context: Context, cells: ray.data.Dataset, salt: tuple[object, ...], tokens: int, size: int) -> Cutoffs:
    """Returns the cut of the pairs, in the random order of `salt`, after the first `tokens` of `size`."""
    cell, seed, cpus = (CELL, CELL), context.config.random_seed, context.transform_cpus
    if tokens in (0, size):  # no pass over the rows is needed
        return Cutoffs({cell: Cut(int(tokens == size), None)}, seed, salt)
    return cutoffs(cells, count_cells(cells, seed, salt, SIZE, cpus), {cell: tokens}, "size", cpus)


def _cells(context: Context, table: Table) -> ray.data.Dataset:
    return context.map(context.read(table, columns=["instruction_id", SIZE, "status"]), _in_one_cell)


def _in_one_cell(batch: pa.Table) -> pa.Table:
    """Returns the usable rows in one cell: a random draw from it has the seed data's own shares."""
    batch = batch.filter(pc.equal(batch["status"], OK))
    return with_columns(batch, pool=CELL, task=CELL)


def _drawn(batch: pa.Table, epochs: list[Epoch]) -> pa.Table:
    """Returns the rows of a block that the parts of the epochs take, each as a pair with the number of its epoch."""
    batch = batch.filter(pc.equal(batch["status"], OK))
    cells = with_columns(batch.select(["instruction_id"]), pool=CELL, task=CELL, row=pa.array(np.arange(len(batch))))
    taken = [TRAINING.empty_table()]
    for epoch in epochs:
        before, until = (take_table(cells, cut)["row"].to_numpy() for cut in (epoch.begin, epoch.end))
        rows = batch.take(pa.array(np.setdiff1d(until, before)))
        ids = [pair_id(row_id, epoch.number) for row_id in rows["instruction_id"].to_pylist()]
        copies = pa.array([epoch.number] * len(rows), pa.int64())
        taken.append(conform(with_columns(rows, copy=copies, pair_id=pa.array(ids, pa.string())), TRAINING))
    return pa.concat_tables(taken)
