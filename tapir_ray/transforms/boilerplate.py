"""Boilerplate: n-grams that many rows of a dataset share, counted without holding its rows.

common = common_ngrams(rows, share=1.0, words=13, most=10, transform_cpus=0.1)       # sorted hashes
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from tapir_ray.data.ngrams import countable, turns_of
from tapir_ray.data.schemas import HOLDOUT, OK

SAMPLED_ROWS = 100_000
"""Most rows that are counted. Of a larger dataset these are the rows of lowest id: the same rows each time."""
ROWS_PER_RANGE = 20_000
"""Counted rows for each counting task. A row has about 100 n-grams of 12 bytes, so a task holds about 24 MB."""


def share_of(rows: int) -> float:
    """Returns the share of `rows` rows that is counted: `share_of(400_000)  # 0.25`."""
    return min(1.0, SAMPLED_ROWS / max(1, rows))


def common_ngrams(rows: ray.data.Dataset, share: float, words: int, most: int, transform_cpus: float) -> np.ndarray:
    """Returns the sorted hashes (`ngrams.countable`) of the n-grams that more than `most` counted rows have, uint64.

    The counted rows are a `share` of the ok rows outside the holdout, chosen by id.
    """
    counted = rows.map_batches(
        functools.partial(count_block, share=share, words=words),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=transform_cpus,
    )
    blocks = counted.to_arrow_refs()
    # A task counts one range of hashes over all blocks, so no task holds all n-grams.
    ranges = 1 + SAMPLED_ROWS // ROWS_PER_RANGE if len(blocks) > 1 else 1
    count: Any = ray.remote(num_cpus=transform_cpus)(_common)
    found = ray.get([count.remote(number, ranges, most, *blocks) for number in range(ranges)])
    return np.concatenate(found)


def count_block(rows: pa.Table, share: float, words: int) -> pa.Table:
    """Returns the n-grams of a block: `hash`, and the number of `rows` that have it."""
    usable = pc.equal(rows["status"], OK)
    if "split" in rows.column_names:
        usable = pc.and_(usable, pc.not_equal(pc.fill_null(rows["split"], ""), HOLDOUT))
    chosen = rows.filter(usable).select(["instruction_id", "messages"])
    found = [np.zeros(0, np.uint64)]
    for row_id, messages in zip(chosen["instruction_id"].to_pylist(), chosen["messages"].to_pylist(), strict=True):
        # An id is a uniform hash in hex, so its first 32 bits select a share of the rows.
        if int(row_id[:8], 16) < share * (1 << 32):
            found.append(countable(turns_of(messages), words))
    hashes, count = np.unique(np.concatenate(found), return_counts=True)
    return pa.table({"hash": hashes, "rows": count.astype(np.uint32)})


def _common(number: int, ranges: int, most: int, *blocks: pa.Table) -> np.ndarray:
    """Returns the hashes in the `number`-th of `ranges` equal ranges that more than `most` rows have."""
    first, last = (number << 64) // ranges, ((number + 1) << 64) // ranges - 1
    hashes, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint32)]
    for block in blocks:
        if len(block):
            found = block["hash"].to_numpy()
            inside = (found >= np.uint64(first)) & (found <= np.uint64(last))
            hashes.append(found[inside])
            counts.append(block["rows"].to_numpy()[inside])
    whole, at = np.unique(np.concatenate(hashes), return_inverse=True)
    rows = np.bincount(at, weights=np.concatenate(counts), minlength=len(whole))
    common: np.ndarray = whole[rows > most]
    return common
