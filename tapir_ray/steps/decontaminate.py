"""Decontamination: indexes of the holdout and of evaluation sets, and the near-duplicate bands of a run.

`contamination_list.py` lists the contaminated rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from tapir_ray.config import SeedData
from tapir_ray.data.formats import parse_evaluation
from tapir_ray.data.ngrams import DEFAULT_WORDS, NO_BOILERPLATE, Boilerplate
from tapir_ray.data.schemas import HOLDOUT, INSTRUCTIONS, OK, conform, instruction_id, with_columns
from tapir_ray.errors import InputError
from tapir_ray.evaluate.registry import suites
from tapir_ray.evaluate.suite import FOLLOW_UPS, Suite
from tapir_ray.run.layout import Table
from tapir_ray.steps import seed
from tapir_ray.steps.context import Context
from tapir_ray.steps.files_left_out import files as files_of
from tapir_ray.transforms.boilerplate import common_ngrams, share_of
from tapir_ray.transforms.filters.contamination import contamination_index, mark_contaminated
from tapir_ray.transforms.filters.duplicates import seed_bands
from tapir_ray.transforms.ingest import FILE_BITS, parse_sources

ITEM_COLUMNS = ["instruction_id", "source", "messages", "status"]
ITEMS = pa.schema([INSTRUCTIONS.field(name) for name in ITEM_COLUMNS])


def filter_rows(context: Context, rows: ray.data.Dataset) -> ray.data.Dataset:
    """Marks rows that overlap with the holdout or an evaluation set; lazy.

    Rows of the holdout itself (column `split`) pass unchanged.
    """
    hidden = context.map(rows, _hide_holdout)
    return context.map(mark_contaminated(hidden, indexes(context), context.config), _shown)


def indexes(context: Context) -> dict[str, ray.ObjectRef]:
    """Returns references to the contamination indexes: `holdout`, and `evaluation`.

    The second has the rows of `filter.evaluation_sets` and the items of `evaluate.suites`.
    """
    config = context.config
    found = {}
    if config.holdout.rows:
        table = _labelled(context) or context.loop.split
        rows = context.map(context.read(table, columns=[*ITEM_COLUMNS, "split"]), _held)
        found["holdout"] = contamination_index(rows, config, boilerplate(context))
    return found | of_evaluation_sets(context, items_of_suites(context))


def of_evaluation_sets(context: Context, others: Sequence[ray.data.Dataset] = ()) -> dict[str, ray.ObjectRef]:
    """Returns `{"evaluation": reference}` to the contamination index of `filter.evaluation_sets` and of `others`.

    Empty without any of them.
    """
    parts = list(others)
    if context.config.filter.evaluation_sets:
        read_evaluation_sets(context)
        rows = context.read(context.layout.evaluation_sets, columns=ITEM_COLUMNS)
        parts.insert(0, context.map(rows, conform, schema=ITEMS))
    if not parts:
        return {}
    together = parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]
    return {"evaluation": contamination_index(together, context.config, boilerplate(context))}


def items_of_suites(context: Context) -> list[ray.data.Dataset]:
    """Returns the texts of the items of each suite of `evaluate.suites` that a run is to keep out of its training."""
    found = suites(context.run, context.config, context.loop, context.roles)
    named = zip(context.loop.suites, found.values(), strict=True)
    return [texts_of_items(context, suite, one.suite) for one, suite in named if suite.decontaminated]


def texts_of_items(context: Context, suite: Suite, source: str | None = None) -> ray.data.Dataset:
    """Returns the texts of a suite's items that must not be trained on, schema ITEMS; every later turn has its row.

    The column `source` has this name, or the item's `instruction_id` without one. Lazy.
    """
    return context.map(suite.items(), _texts, source=source)


def _texts(batch: pa.Table, source: str | None) -> pa.Table:
    names = [name for name in ("instruction_id", "messages", "status", FOLLOW_UPS) if name in batch.column_names]
    rows = []
    for row in batch.select(names).to_pylist():
        later = [[{"role": "user", "content": turn}] for turn in row.get(FOLLOW_UPS) or ()]
        for messages in (row["messages"], *later):
            named = {"source": source or row["instruction_id"], "instruction_id": instruction_id(messages)}
            rows.append({**named, "messages": messages, "status": row["status"]})
    return conform(rows, ITEMS)


def boilerplate(context: Context) -> Boilerplate:
    """Returns the n-grams that more than `filter.common_ngram_rows` training rows share.

    The first call counts them in the table that the layout names, and writes `seed/common_ngrams`.
    """
    settings, run, counted = context.config.filter, context.run, context.layout.common_ngrams
    if settings.common_ngram_rows is None:
        return NO_BOILERPLATE
    words = settings.ngram or DEFAULT_WORDS
    if not run.done(counted):
        (table,) = counted.inputs
        with context.progress.stage("find boilerplate") as facts:
            rows = seed.without_repeats(context) if table == context.layout.read else context.read(table)
            share = share_of(run.manifest(table).rows)
            found = common_ngrams(rows, share, words, settings.common_ngram_rows, context.transform_cpus)
            facts["common n-grams"] = len(found)
        run.write_rows(counted, pa.table({"hash": found}))
    hashes = [batch["hash"].to_numpy() for batch in run.scan(counted, ["hash"])]
    return Boilerplate(np.concatenate([np.zeros(0, np.uint64), *hashes]), words)


def read_evaluation_sets(context: Context) -> None:
    """Writes `seed/evaluation_sets`, the rows of `filter.evaluation_sets`; unreadable rows are marked and reported.

    Raises InputError for a file without a usable row.
    """
    run, table = context.run, context.layout.evaluation_sets
    if run.done(table):
        return
    key = "filter.evaluation_sets"
    files = [file for path in context.config.filter.evaluation_sets for file in files_of(context, path, key, "test")]
    rows = parse_sources(files, SeedData(), context.transform_cpus, parse_evaluation)
    manifest = context.write(table, rows, "read the evaluation sets")
    usable: Counter[int] = Counter()
    reasons: dict[int, str] = {}
    for batch in run.scan(table, ["position", "status", "reason"]):
        for row in batch.to_pylist():
            # The upper bits of a position are the number of the file.
            number = row["position"] >> FILE_BITS
            usable[number] += row["status"] == OK
            if row["reason"] is not None:
                reasons.setdefault(number, row["reason"])
    for number, file in enumerate(files):
        if not usable[number]:
            # A finished table would let the next start pass without this check.
            run.clear(table)
            why = f"no row can be used ({reasons[number]})" if number in reasons else "it has no row"
            raise InputError(f"filter.evaluation_sets {file}: {why}; fix the file or leave it out")
    left_out = manifest.rows - manifest.count(OK)
    if left_out:
        context.progress.say(
            f"filter.evaluation_sets: {left_out} of {manifest.rows} rows cannot be read, so no training row is "
            f"compared with them ({reasons[min(reasons)]})"
        )


def bands_of(context: Context, round_number: int) -> str:
    """Returns the folder of the near-duplicate bands of a round; the first call for round 0 writes the seed data's."""
    bands = context.loop.bands(round_number)
    path = context.run.uri_of(bands.path)
    if round_number == 0 and not context.run.done(bands):
        table = _labelled(context) or context.layout.ingested
        columns = ["instruction_id", "messages", "status"]
        with context.progress.stage("bands of the seed data"):
            seed_bands(context.read(table, columns=columns), context.config, path, boilerplate(context))
        context.run.publish(bands, [])
    return path


def _labelled(context: Context) -> Table | None:
    """Returns `seed/instructions` if the seed data is labelled already."""
    table = context.loop.instructions
    return table if context.run.done(table) else None


def _held(batch: pa.Table) -> pa.Table:
    return batch.filter(pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK)))


HIDDEN = "hidden"


def _hide_holdout(batch: pa.Table) -> pa.Table:
    """Gives holdout rows another status, since filters look at ok rows; `_shown` restores it."""
    if "split" not in batch.column_names:
        return batch
    hide = pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK))
    return with_columns(batch, status=pc.if_else(hide, HIDDEN, batch["status"]))


def _shown(batch: pa.Table) -> pa.Table:
    return with_columns(batch, status=pc.if_else(pc.equal(batch["status"], HIDDEN), OK, batch["status"]))
