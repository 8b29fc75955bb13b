"""Exports the rows of a run as a dataset in a usual format, with a dataset card.

    made = export_dataset("runs/mine", layout_of, "exports/mine", "openai")
    made.counts.exported, made.counts.reasons

The rows are streamed from the run's tables to the files of the export.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tapir_ray.config import Config
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError
from tapir_ray.report.export import preference, tables
from tapir_ray.report.export.dataset_card import Made, card
from tapir_ray.report.export.files import CARD, new_folder, writer
from tapir_ray.report.export.formats import FORMATS, MASKED, OTHER_TEXT, PREFERENCE, TURNS, Format, unlike
from tapir_ray.report.export.rows import REPEATED, Counts, Provenance, Repeats, rows
from tapir_ray.report.export.runs import open_run, refuse_inside
from tapir_ray.run.layout import Layout, Table
from tapir_ray.run.run import Run

BATCH_ROWS = 1_000
"""Rows that are written together."""
REASONS = {
    TURNS: "{} has no place for its turns",
    MASKED: "{} cannot mask an earlier answer",
    OTHER_TEXT: "it would be read back as another text",
}


@dataclass(frozen=True)
class Source:
    """A run whose rows are exported."""

    run: Run
    config: Config
    layout: Layout


def export_dataset(
    run_dir: str,
    layout_of: Callable[[Config], Layout],
    out: str,
    format: str,
    table: str | None = None,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> Made:
    """Writes the rows of a run to the folder or URI `out`, and returns what was written.

    - `table`: path or field of another table than the training sets.
    - `finish`: called with the local folder of all files before `out` gets them.

    Raises InputError for a run without such rows, for a target that is taken, and if no row is left to export.
    """
    chosen = FORMATS[format]
    if not chosen.suffix and is_remote(out):
        raise InputError(f"--format {format} writes a dataset that is read from a local folder: take --format parquet")
    run, config = open_run(run_dir)
    refuse_inside(run, out)
    source = Source(run, config, layout_of(config))
    found = _tables(source, chosen, table)
    with new_folder(out, overwrite) as folder:
        made = _write(source, chosen, found, folder)
        (folder / CARD).write_text(card(source.run, source.config, source.layout, chosen, made), encoding="utf-8")
        if finish is not None:
            finish(folder)
    return made


def _tables(source: Source, format: Format, name: str | None) -> list[Table]:
    is_pairs = format.name == PREFERENCE
    if name is not None:
        needed = tables.OF_PAIRS if is_pairs else tables.NEEDED
        return tables.named(source.run, source.layout, name, needed)
    return (tables.scored if is_pairs else tables.trained_on)(source.run, source.layout)


def _write(source: Source, format: Format, found: Sequence[Table], folder: Path) -> Made:
    counts = Counts()
    written = exported(source, format, found, counts)
    first = list(islice(written, BATCH_ROWS))
    if not first:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.reasons.items()) or "the tables are empty"
        advice = "name another table by --table"
        if format.name == PREFERENCE and not source.config.scores_candidates:
            rule = "method elad" if source.config.work == "elad" else "curriculum.difficulty.select none"
            advice = f"with {rule} only the holdout is answered and scored: take another run"
        raise InputError(
            f"no row of {', '.join(map(str, found))} can be exported as {format.name} ({reasons}): {advice}"
        )
    with writer(format, folder) as write:
        while first:
            write(first)
            first = list(islice(written, BATCH_ROWS))
    return Made(tuple(table.path for table in found), format.name, counts)


def exported(source: Source, format: Format, found: Sequence[Table], counts: Counts) -> Iterator[dict[str, Any]]:
    """Yields the objects of all rows that the format can hold, each instruction once; counts the others."""
    provenance, repeats = Provenance.of(source.run, source.layout), Repeats()
    more = preference.SCORES if format.name == PREFERENCE else ()
    every = rows(source.run, found, provenance, counts, more)
    if format.name == PREFERENCE:
        every = preference.pairs(every, counts)
    for row in every:
        if format.name == PREFERENCE:
            counts.take(row)
            yield row
            continue
        if repeats(row["instruction_id"]):
            counts.left_out[REPEATED] += 1
            continue
        made = format.write(row)
        if (part := unlike(row, made)) is not None:
            counts.left_out[REASONS[part].format(format.name)] += 1
            continue
        assert made is not None
        counts.take(row)
        yield made
