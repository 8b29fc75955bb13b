"""`contamination_holdout: RULE`, `contamination_evaluation: RULE`: an instruction like one of the holdout or of an
evaluation set. The rules are `exact`, `near_duplicate` and `ngram` (docs/filters.md).

    index = contamination_index(holdout_rows, config)
    marked = mark_contaminated(rows, {"holdout": index}, config)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from tapir_ray.config import Config
from tapir_ray.data.contamination_index import ContaminationIndex
from tapir_ray.data.ngrams import NO_BOILERPLATE, Boilerplate
from tapir_ray.data.schemas import OK
from tapir_ray.transforms.filters.base import Compared, TableFilter, mapped, with_reasons

ITEM_ORDER = ("source", "instruction_id")
"""Sort order of the items of an index, which makes it the same in every run."""
ADVICE = "lower filter.common_ngram_rows if the shared text is boilerplate, or use other rows"


class Contamination(TableFilter):
    """Filters rows that overlap with an item of `compared.indexes`."""

    reasons: ClassVar = {"contamination_holdout": ADVICE, "contamination_evaluation": ADVICE}
    keys = (
        "holdout.rows",
        "filter.evaluation_sets",
        "filter.ngram",
        "filter.near_duplicate",
        "filter.common_ngram_rows",
    )

    def mark(self, rows: ray.data.Dataset, config: Config, compared: Compared) -> ray.data.Dataset:
        return mark_contaminated(rows, compared.indexes, config)


def contamination_index(
    rows: ray.data.Dataset, config: Config, boilerplate: Boilerplate = NO_BOILERPLATE
) -> ray.ObjectRef:
    """Returns a reference to the ContaminationIndex of the ok rows' `messages`, built in one Ray task.

    Its items are these rows, sorted by `source` and `instruction_id` if they have these columns.
    """
    build = ray.remote(_build_index).options(num_cpus=config.resources.transform_cpus)
    blocks = mapped(rows, _index_columns, config).to_arrow_refs()
    found: ray.ObjectRef = build.remote(config.filter.ngram, config.filter.near_duplicate, boilerplate, *blocks)
    return found


def mark_contaminated(rows: ray.data.Dataset, indexes: Mapping[str, ray.ObjectRef], config: Config) -> ray.data.Dataset:
    """Marks rows that overlap with an index as `contamination_NAME: RULE`; NAME is `holdout` or `evaluation`.

    Works on any rows with `messages`, `status` and `reason`, generated or seed.
    """
    return mapped(rows, functools.partial(_mark_contaminated, indexes=dict(indexes)), config)


def _mark_contaminated(rows: pa.Table, indexes: Mapping[str, ray.ObjectRef]) -> pa.Table:
    for name, reference in indexes.items():
        index: ContaminationIndex = ray.get(reference)
        is_ok = pc.equal(rows["status"], OK).to_numpy()
        kinds = iter(index.contaminated(rows["messages"].filter(pa.array(is_ok)).to_pylist()))
        reasons = [f"contamination_{name}: {kind}" if ok and (kind := next(kinds)) else None for ok in is_ok]
        rows = with_reasons(rows, reasons)
    return rows


def _index_columns(rows: pa.Table) -> pa.Table:
    rows = rows.filter(pc.equal(rows["status"], OK))
    return rows.select([name for name in ("messages", *ITEM_ORDER) if name in rows.column_names])


def _build_index(ngram: int, threshold: float, boilerplate: Boilerplate, *blocks: pa.Table) -> ContaminationIndex:
    # An empty block may have no columns, and would not concatenate.
    kept = [block for block in blocks if len(block)]
    rows = pa.concat_tables(kept) if kept else pa.table({"messages": []})
    if set(ITEM_ORDER) <= set(rows.column_names):
        rows = rows.sort_by([(name, "ascending") for name in ITEM_ORDER])
    sources = rows["source"].to_pylist() if "source" in rows.column_names else []
    return ContaminationIndex.build(rows["messages"].to_pylist(), ngram, threshold, boilerplate, sources)
