"""`duplicate: ID`, `near_duplicate: ID`: an instruction equal or similar to that of the earlier row ID.

seed_bands(seed_rows, config, "seed/bands")                    # compared with in every round
marked = mark_repeats(stored_rows, config, "seed/bands")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.config import Config
from tapir_ray.data import dedup
from tapir_ray.data.ngrams import NO_BOILERPLATE, Boilerplate
from tapir_ray.transforms.filters.base import Compared, TableFilter, mapped


class Duplicates(TableFilter):
    """Filters rows that are similar to a row of lower (round, draw id), in this table or an earlier one.

    Runs at once up to the join. The rows are kept in the object store, so that earlier filters run once a row.
    """

    reasons: ClassVar = {
        "duplicate": "the rows repeat one another: use other rows (in a round: raise expand.temperature)",
        "near_duplicate": "the rows are very similar: use other rows (in a round: raise expand.temperature), or raise "
        "filter.near_duplicate",
    }
    keys = ("filter.near_duplicate", "filter.common_ngram_rows")

    def mark(self, rows: ray.data.Dataset, config: Config, compared: Compared) -> ray.data.Dataset:
        ordered = mapped(rows, with_order, config).materialize()
        return _marked(ordered, config, compared.bands, compared.earlier, compared.boilerplate)


def mark_repeats(
    rows: ray.data.Dataset, config: Config, work_dir: str, boilerplate: Boilerplate = NO_BOILERPLATE
) -> ray.data.Dataset:
    """Marks stored instruction rows that are similar to a row of lower id.

    `work_dir` receives the near-duplicate bands. Runs at once up to the join.
    """
    return _marked(mapped(rows, with_order, config), config, work_dir, [], boilerplate)


def seed_bands(rows: ray.data.Dataset, config: Config, out_dir: str, boilerplate: Boilerplate = NO_BOILERPLATE) -> str:
    """Writes the near-duplicate bands of the seed data, which precedes every round; returns `out_dir`."""
    ordered = mapped(rows.select_columns(["instruction_id", "messages", "status"]), with_order, config)
    return dedup.bands(ordered, out_dir, config.filter.near_duplicate, config.resources.transform_cpus, boilerplate)


def with_order(rows: pa.Table) -> pa.Table:
    """Adds the unique string `order`, round and draw id. Seed data, which has no draw id, comes first."""
    if "draw_id" not in rows.column_names:
        return rows.append_column("order", pc.binary_join_element_wise("0000", rows["instruction_id"], "-"))
    # Padded, since `order` is compared as a string: round 10 comes after round 9.
    number = pc.utf8_lpad(rows["round"].cast(pa.string()), 4, "0")
    return rows.append_column("order", pc.binary_join_element_wise(number, rows["draw_id"], "-"))


def _marked(
    ordered: ray.data.Dataset, config: Config, work_dir: str, earlier: Sequence[str], boilerplate: Boilerplate
) -> ray.data.Dataset:
    threshold, cpus = config.filter.near_duplicate, config.resources.transform_cpus
    marked = dedup.mark_near_duplicates(ordered, work_dir, earlier, threshold, cpus, boilerplate)
    return marked.drop_columns(["order"])
