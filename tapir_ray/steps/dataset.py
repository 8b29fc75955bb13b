"""Dataset of a regeneration: the ok rows of each shard in one file, and a dataset card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayError

from tapir_ray.data.atomic_files import writing
from tapir_ray.data.schemas import OK
from tapir_ray.errors import StageError, full_disk, last_line
from tapir_ray.run.attempts import check_owner
from tapir_ray.run.blocks import is_torn
from tapir_ray.run.layout import DATASET, DATASET_ROWS
from tapir_ray.run.manifest import Manifest
from tapir_ray.run.versions import versions
from tapir_ray.steps import contamination_list
from tapir_ray.steps.context import Context
from tapir_ray.steps.dataset_card import Report, card, counts, summary
from tapir_ray.steps.reanswer import REGENERATED
from tapir_ray.steps.seed import unused_columns
from tapir_ray.steps.shards import Shard

COLUMNS = (
    "instruction_id", "messages", "masked_turns", "reasoning", "task", "task_prob", "source", "license", "meta",
    "teacher_model", "sampling", "prompt_hash", "style", "answer_score", "other_response", "new_score", "old_score",
    "preferred",
)  # fmt: skip
"""Columns of REGENERATED in the dataset. The answer is the last turn of `messages`."""
SCHEMA = pa.schema([REGENERATED.field(name) for name in COLUMNS])
COUNTED = ("task", "preferred", "teacher_model")
BATCH_ROWS = 5_000
"""Rows in memory at a time."""


def publish(context: Context, shards: Sequence[Shard]) -> dict[str, Any]:
    """Writes `dataset/data/SHARD.parquet`, `dataset/README.md` and `summary.json`; returns the summary.

    Raises StageError if the number of rows differs from the number read, and if a shard cannot be written.
    """
    run, config, layout = context.run, context.config, context.shards
    tables = {shard.number: run.manifest(layout.regenerated.of(shard.name)) for shard in shards}
    found = counts(run.manifest(layout.read).rows, tables.values())
    run.fs.create_dir(run.path(DATASET_ROWS), recursive=True)
    with context.progress.stage("write the dataset"):
        held: dict[str, Counter[str]] = {column: Counter() for column in COUNTED}
        for counted in _export(context, tables):
            for column, values in counted.items():
                held[column].update(values)
    check_owner(run, run.attempt)
    report = Report(found, held, context.roles.usage(), versions())
    shown = {**summary(config, report, len(shards), run.uri_of(DATASET)), "unused_columns": unused_columns(run)}
    shown["contamination"] = contamination_list.counts(run, layout.contamination)
    run.write_text(f"{DATASET}/README.md", card(config, report))
    run.write_json("summary.json", shown)
    return shown


def _export(context: Context, tables: Mapping[str, Manifest]) -> Iterator[dict[str, Counter[str]]]:
    """Exports the tables, given by shard number, and yields their counts in the order of completion.

    Raises StageError if a shard cannot be written.
    """
    run = context.run
    # A whole CPU may never be free next to engines, so each task claims a fraction. To bound memory, at most one task a
    # CPU of the cluster runs, and tasks are spread over the nodes.
    export = ray.remote(export_shard).options(num_cpus=context.transform_cpus, scheduling_strategy="SPREAD")
    left, running = list(tables.items()), dict[ray.ObjectRef, str]()
    while left or running:
        while left and len(running) < max(1, ray.cluster_resources().get("CPU", 1)):
            number, made = left.pop(0)
            target = f"{DATASET_ROWS}/{number}.parquet"
            running[export.remote(run.files(made.table), run.fs, run.path(target), made.count(OK))] = target
        (done,), _ = ray.wait(list(running))
        target = running.pop(done)
        try:
            yield ray.get(done)
        except RayError as error:
            if (full := full_disk(error)) is not None:
                raise full from error
            raise StageError(f"{target} was not written: {last_line(error)}; fix that and start again") from error


def export_shard(files: Sequence[str], fs: pafs.FileSystem, target: str, expected: int) -> dict[str, Counter[str]]:
    """Writes the `expected` ok rows of some files to `target`, unless it already has them.

    Returns its number of rows by each value of the columns COUNTED.
    """
    # A ParquetWriter closes its file on an error, so an object store may hold a valid file with too few rows.
    there = fs.get_file_info(target).type != pafs.FileType.NotFound
    if not there or is_torn(target, fs) or pq.read_metadata(target, filesystem=fs).num_rows != expected:
        # A local file has a temporary name while it is written. An object store shows an object once it is closed.
        local = isinstance(fs, pafs.LocalFileSystem)
        with (
            writing(target) if local else nullcontext(target) as place,
            pq.ParquetWriter(place, SCHEMA, filesystem=fs) as writer,
        ):
            for file in files:
                for batch in batches(file, fs):
                    writer.write_table(exported(batch))
    found: dict[str, Counter[str]] = {column: Counter() for column in COUNTED}
    for batch in batches(target, fs, COUNTED):
        for column, values in found.items():
            values.update(counted(batch[column]))
    return found


def counted(values: pa.Array | pa.ChunkedArray) -> Counter[str]:
    """Counts each value; nulls are left out."""
    found = pc.value_counts(values.drop_null())
    return Counter(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))


def batches(file: str, fs: pafs.FileSystem, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yields the rows of a Parquet file, BATCH_ROWS at a time."""
    with pq.ParquetFile(file, filesystem=fs) as opened:
        for batch in opened.iter_batches(BATCH_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


def exported(table: pa.Table) -> pa.Table:
    """Returns the ok rows of a table of REGENERATED as SCHEMA, each with its whole conversation."""
    rows = table.filter(pc.equal(table["status"], OK)).combine_chunks()
    at, field = rows.schema.get_field_index("messages"), SCHEMA.field("messages")
    return rows.set_column(at, field, with_answers(rows["messages"], rows["response"])).select(COLUMNS)


def with_answers(messages: pa.ChunkedArray, answers: pa.ChunkedArray) -> pa.Array:
    """Returns each conversation with its answer as the last turn, as list<struct<role, content>>."""
    turn = SCHEMA.field("messages").type.value_type
    turns, contents = pa.array(messages.combine_chunks()), pa.array(answers.combine_chunks())
    last = pa.StructArray.from_arrays([pa.repeat("assistant", len(contents)), contents], fields=list(turn))
    lengths = pc.list_value_length(turns).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths, dtype=np.int64)
    # Interleaves the answers: conversation i takes its turns, then answer i, which is at lengths.sum() + i of `every`.
    places = np.insert(np.arange(lengths.sum()), ends, lengths.sum() + np.arange(len(contents)))
    every = pa.concat_arrays([turns.flatten(), last]).take(pa.array(places))
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], ends + np.arange(1, len(ends) + 1)]), pa.int32()), every
    )
