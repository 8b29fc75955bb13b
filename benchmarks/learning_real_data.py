"""Real rows of the learning benchmark: five files as five tasks, and their split into holdout, seed data and pool."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tapir_ray.config import Config
from tapir_ray.data.contamination_index import ContaminationIndex
from tapir_ray.data.ngrams import boilerplate_of
from tapir_ray.data.readers import read_raw
from tapir_ray.data.schemas import FILTERED, INSTRUCTIONS, OK, SEED, conform, order_key
from tapir_ray.transforms.count_tokens import count_table
from tapir_ray.transforms.ingest import parsed_rows

FILES = {
    "Alpaca": "alpaca_9k.jsonl",
    "Dolly": "dolly_3k.jsonl",
    "Math": "gsm8k_2k.jsonl",
    "Code": "codealpaca_2k.jsonl",
    "Roleplay": "roleplay_1k.jsonl",
}
SHARES = {"Alpaca": 0.5, "Dolly": 0.2, "Math": 0.1, "Code": 0.1, "Roleplay": 0.1}
"""Shares of the rows of the seed data."""
UNIFORM = dict.fromkeys(SHARES, 1 / len(SHARES))
WHOLE = "whole"
"""Column with the tokens of a whole pair, prompt and response; `tokens` are those of the response."""
COUNTED = pa.schema([*INSTRUCTIONS, ("tokens", pa.int64()), (WHOLE, pa.int64())])


@dataclass(frozen=True)
class Split:
    """Rows of a random seed, schema COUNTED; no row is in two of them."""

    holdout: pa.Table
    """As many rows of each task."""
    seeds: pa.Table
    """Tasks in SHARES."""
    pool: pa.Table
    """All other rows: the recorded answers that stand in for the teacher's expansions."""


def counted_rows(folder: Path, config: Config, model: str, files: dict[str, str] | None = None) -> pa.Table:
    """Returns the rows of all files with their tokens, each instruction once; unusable ones are filtered by reason."""
    rows: list[dict[str, Any]] = []
    known: set[str] = set()
    for task, name in (FILES if files is None else files).items():
        for place, raw in read_raw(str(folder / name)):
            for row in parsed_rows(raw, place, config.seed_data):
                if row["status"] == OK and not (row["response"] or "").strip():
                    row |= {"status": FILTERED, "reason": "no_response"}
                elif row["instruction_id"] in known:
                    row |= {"status": FILTERED, "reason": "duplicate"}
                known.add(row["instruction_id"])
                rows.append({**{key: row.get(key) for key in INSTRUCTIONS.names}, "split": SEED, "task": task})
    table = count_table(conform(rows, INSTRUCTIONS), model, config.student, config.train, WHOLE)
    return conform(table, COUNTED)


def reasons(table: pa.Table) -> dict[str, int]:
    """Returns the number of filtered rows by reason, without what follows a colon."""
    found = table.filter(pc.not_equal(table["status"], OK))["reason"].to_pylist()
    return dict(sorted(Counter((reason or "").partition(":")[0] for reason in found).items()))


def split(rows: pa.Table, config: Config, held_each: int, seed_rows: int) -> tuple[Split, dict[str, int]]:
    """Returns the split of a random seed, and how many rows it leaves out by reason.

    The holdout is drawn first, `held_each` rows a task. A row that has an instruction like one of the holdout, by the
    product's contamination index, is then left out. `seed_rows` of the others are seed data.
    """
    usable = rows.filter(pc.equal(rows["status"], OK))
    ids = usable["instruction_id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda at: order_key(ids[at], config.random_seed, "split"))
    usable = usable.take(pa.array(order, pa.int64()))
    held = first_of_each(usable, dict.fromkeys(SHARES, held_each))
    others = usable.filter(pa.array(~held))
    kinds = contamination(others, usable.filter(pa.array(held)), config)
    clean = others.filter(pa.array([kind is None for kind in kinds], pa.bool_()))
    seeds = first_of_each(clean, {task: round(share * seed_rows) for task, share in SHARES.items()})
    found = Split(usable.filter(pa.array(held)), clean.filter(pa.array(seeds)), clean.filter(pa.array(~seeds)))
    return found, {**reasons(rows), **dict(Counter(kind for kind in kinds if kind))}


def first_of_each(rows: pa.Table, numbers: dict[str, int]) -> np.ndarray:
    """Returns a mask of the first rows of each task, as many as `numbers` says. Raises SystemExit for too few rows."""
    tasks = np.array(rows["task"].to_pylist())
    mask = np.zeros(len(tasks), bool)
    for task, number in numbers.items():
        places = np.flatnonzero(tasks == task)
        if len(places) < number:
            raise SystemExit(f"task {task} has {len(places)} usable rows, and {number} are needed: lower --seed-rows")
        mask[places[:number]] = True
    return mask


def contamination(rows: pa.Table, held: pa.Table, config: Config) -> list[str | None]:
    """Returns the kind of contamination of each row by the holdout, or None."""
    filters, conversations = config.filter, rows["messages"].to_pylist()
    boilerplate = boilerplate_of(conversations, filters.common_ngram_rows, filters.ngram)
    index = ContaminationIndex.build(held["messages"].to_pylist(), filters.ngram, filters.near_duplicate, boilerplate)
    return index.contaminated(conversations)


def response_shares(rows: pa.Table) -> dict[str, float]:
    """Returns each task's share of the response tokens, the unit in which a round is mixed."""
    sums = rows.group_by("task").aggregate([("tokens", "sum")]).to_pylist()
    total = sum(entry["tokens_sum"] for entry in sums)
    return {entry["task"]: entry["tokens_sum"] / total for entry in sorted(sums, key=lambda entry: entry["task"])}


def whole_of_response(rows: pa.Table) -> dict[str, float]:
    """Returns the tokens of whole pairs for each response token, by task."""
    sums = rows.group_by("task").aggregate([("tokens", "sum"), (WHOLE, "sum")]).to_pylist()
    return {entry["task"]: entry[f"{WHOLE}_sum"] / entry["tokens_sum"] for entry in sums}


def kept(path: Path, make: Any) -> pa.Table:
    """Returns the table at `path`, made and written if it is missing."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(make(), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
    return pq.read_table(path)
