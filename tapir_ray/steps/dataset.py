"""The dataset that a regeneration leaves: the ok rows of each part as one file, and the card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import ray

from tapir_ray.context import Context
from tapir_ray.ownership import check_owner
from tapir_ray.records import OK
from tapir_ray.report.card import Report, card, counts, summary
from tapir_ray.report.summary import versions
from tapir_ray.steps.clean import READ
from tapir_ray.steps.parts import Part
from tapir_ray.steps.renew import REGENERATED, RENEWED

FOLDER, DATA = "dataset", "dataset/data"
COLUMNS = (
    "instruction_id", "messages", "reasoning", "task", "task_prob", "source", "licence", "meta", "teacher_model",
    "sampling", "prompt_hash", "style", "answer_score", "other_response", "new_score", "old_score", "preferred",
)  # fmt: skip
"""Of REGENERATED, what the dataset has; the answer is the last of the `messages`."""
SCHEMA = pa.schema([REGENERATED.field(name) for name in COLUMNS])
COUNTED = ("task", "preferred", "teacher_model")


def publish(context: Context, parts: Sequence[Part]) -> dict[str, Any]:
    """`dataset/data/PART.parquet` and `dataset/README.md`; returns the summary, which is in `summary.json` as well.

    Raises StageError where other rows came out than went in.
    """
    run, config = context.run, context.config
    tables = {part.name.rpartition("/")[2]: run.manifest(f"{part.name}/{RENEWED}") for part in parts}
    found = counts(run.manifest(READ).rows, tables.values())
    run.fs.create_dir(run.path(DATA), recursive=True)
    export = ray.remote(export_part).options(num_cpus=context.stage_cpus)
    with context.progress.stage("write the dataset"):
        tasks = [
            export.remote(run.files(made.table), run.fs, run.path(f"{DATA}/{number}.parquet"), made.count(OK))
            for number, made in tables.items()
        ]
        held: dict[str, Counter[str]] = {column: Counter() for column in COUNTED}
        for counted in ray.get(tasks):
            for column, values in counted.items():
                held[column].update(values)
    check_owner(run, run.attempt)
    report = Report(found, held, context.roles.usage(), versions())
    shown = summary(config, report, len(parts), run.uri_of(FOLDER))
    run.write_text(f"{FOLDER}/README.md", card(config, report))
    run.write_json("summary.json", shown)
    return shown


def export_part(files: Sequence[str], fs: pafs.FileSystem, target: str, expected: int) -> dict[str, Counter[str]]:
    """Write the `expected` ok rows of some files as `target`, where it does not have them yet.

    Returns its rows by the values of COUNTED.
    """
    # A writer that meets an error closes its file, which then is there with fewer rows on an object store.
    there = fs.get_file_info(target).type != pafs.FileType.NotFound
    if not there or pq.read_metadata(target, filesystem=fs).num_rows != expected:
        local = isinstance(fs, pafs.LocalFileSystem)
        place = f"{target}.part" if local else target
        with pq.ParquetWriter(place, SCHEMA, filesystem=fs) as writer:
            for file in files:
                writer.write_table(exported(pq.read_table(file, filesystem=fs)))
        if local:
            fs.move(place, target)
    rows = pq.read_table(target, columns=list(COUNTED), filesystem=fs)
    return {column: Counter(value for value in rows[column].to_pylist() if value is not None) for column in COUNTED}


def exported(table: pa.Table) -> pa.Table:
    """The ok rows of a table of REGENERATED, as SCHEMA: each a whole conversation."""
    rows = table.filter(pc.equal(table["status"], OK))
    answers = ([{"role": "assistant", "content": answer}] for answer in rows["response"].to_pylist())
    whole = [turns + answer for turns, answer in zip(rows["messages"].to_pylist(), answers, strict=True)]
    at = rows.schema.get_field_index("messages")
    return rows.set_column(at, SCHEMA.field("messages"), pa.array(whole, SCHEMA.field("messages").type)).select(COLUMNS)
