"""Rows of an export, a batch at a time: whole conversations with their ids and sources, and counts of the rest.

    counts = Counts()
    for row in rows(run, tables, Provenance.of(run, layout), counts):        # at most BATCH_ROWS in memory
        row["messages"], row["response"], row["license"]
    counts.left_out                                                          # {"filtered: duplicate": 12, …}

In memory are the ids of all rows and, by id, the short columns of the tables that they come from; never their texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.data.schemas import HOLDOUT, OK, conform, instruction_id, with_columns
from tapir_ray.run.layout import Layout, LoopLayout, Table
from tapir_ray.run.row_counter import kind_of
from tapir_ray.run.run import Run
from tapir_ray.steps.dataset import batches

SHORT = ("task", "source", "license", "teacher_model", "style")
"""Columns of the tables of instructions that a training set lacks. That of the initial SFT has no tasks yet."""
OTHERS = ("masked_turns", "reasoning", "pool", *SHORT)
"""Columns of an exported row besides its id, `table`, `messages` and `response`; null if its table lacks them."""
NO_ANSWER, REPEATED, HELD_OUT = "no answer", "repeated: an exported row has it", "holdout: never trained on"
COUNTED = ("task", "license", "teacher_model", "table")


@dataclass
class Counts:
    """Counts of the rows that were read, of those left out by reason, and of the exported ones by their values."""

    read: Counter[str] = field(default_factory=Counter)
    """Rows by table."""
    left_out: Counter[str] = field(default_factory=Counter)
    exported: int = 0
    held: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in COUNTED})
    """By column of COUNTED, then by value: exported rows."""

    def take(self, row: dict[str, Any]) -> None:
        """Counts an exported row."""
        self.exported += 1
        for name, values in self.held.items():
            if row.get(name) is not None:
                values[row[name]] += 1

    @property
    def reasons(self) -> dict[str, int]:
        """Rows left out by reason, most first."""
        return dict(self.left_out.most_common())


@dataclass(frozen=True)
class Provenance:
    """Tasks, sources, licences and teachers of a run's instructions, by id."""

    ids: pa.Array
    columns: dict[str, pa.ChunkedArray]

    @classmethod
    def of(cls, run: Run, layout: Layout) -> Provenance:
        """Returns those of the seed data and of every round's generated rows."""
        schema = pa.schema([(name, pa.string()) for name in ("instruction_id", *SHORT)])
        parts: list[pa.Table] = []
        tables: list[Table] = []
        if isinstance(layout, LoopLayout):
            seed = layout.instructions if run.done(layout.instructions) else layout.ingested
            tables = [table for table in (seed, *(one.written for one in layout.rounds)) if run.done(table)]
        for table in tables:
            for file in run.files(table):
                for batch in batches(file, run.fs, ["instruction_id", "status", *SHORT]):
                    parts.append(conform(batch.filter(pc.equal(batch["status"], OK)), schema))
        whole = pa.concat_tables([schema.empty_table(), *parts])
        # The same few licences and teachers are in many rows.
        kept = {name: whole[name] if name == "source" else whole[name].dictionary_encode() for name in SHORT}
        return cls(whole["instruction_id"].combine_chunks(), kept)

    def add_to(self, batch: pa.Table) -> pa.Table:
        """Returns the batch with the columns of SHORT that it lacks, and with their nulls filled."""
        at = pc.index_in(batch["instruction_id"], value_set=self.ids)
        for name, column in self.columns.items():
            found = column.take(at).cast(pa.string())
            own = batch[name] if name in batch.column_names else None
            batch = with_columns(batch, **{name: found if own is None else pc.coalesce(own, found)})
        return batch


def rows(
    run: Run, tables: Sequence[Table], provenance: Provenance, counts: Counts, more: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yields the ok rows of finished tables with an answer, as objects with OTHERS, `table` and the columns `more`.

    `instruction_id` is that of the messages as they are: it differs from the run's in a row that `rewrite.mark` has
    marked. Rows of the holdout, and rows that are not ok, are counted in `counts.left_out`.
    """
    for table in tables:
        for file in run.files(table):
            for batch in batches(file, run.fs):
                counts.read[table.path] += len(batch)
                yield from _of_batch(provenance.add_to(_usable(batch, counts)), table, more)


def _usable(batch: pa.Table, counts: Counts) -> pa.Table:
    if "status" in batch.column_names:
        ok = pc.equal(batch["status"], OK)
        for row in batch.filter(pc.invert(ok)).select(["status", "reason"]).to_pylist():
            counts.left_out[f"{row['status']}: {kind_of(row['reason'])}"] += 1
        batch = batch.filter(ok)
    if "split" in batch.column_names:
        batch = _without(batch, pc.equal(batch["split"], HOLDOUT), HELD_OUT, counts)
    return _without(batch, pc.is_null(batch["response"]), NO_ANSWER, counts)


def _without(batch: pa.Table, rows: pa.ChunkedArray, reason: str, counts: Counts) -> pa.Table:
    hit = pc.fill_null(rows, False)
    if found := pc.sum(hit).as_py() or 0:
        counts.left_out[reason] += found
    return batch.filter(pc.invert(hit))


def _of_batch(batch: pa.Table, table: Table, more: Sequence[str]) -> Iterator[dict[str, Any]]:
    names = [name for name in ("messages", "response", *OTHERS, *more) if name in batch.column_names]
    lacking = dict.fromkeys(name for name in (*OTHERS, *more) if name not in names)
    for row in batch.select(names).to_pylist():
        row_id = instruction_id(row["messages"])
        yield {"instruction_id": row_id, **lacking, **row, "table": table.path}


class Repeats:
    """Keys that were seen: `repeats(row_id)` is False the first time, and True from then on."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, key: str) -> bool:
        """Returns whether the 32 hex digits of a key were seen before."""
        # As bytes: 49 and not 81 in memory.
        packed = bytes.fromhex(key)
        if packed in self._seen:
            return True
        self._seen.add(packed)
        return False
