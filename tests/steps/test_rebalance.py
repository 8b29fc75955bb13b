"""Rebalancing keeps a quota of rows of each task, the same ones for any blocks and order."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pyarrow as pa
import pytest

from tapir_ray.config import Curriculum
from tapir_ray.curriculum import tasks
from tapir_ray.curriculum.sampling import keys
from tapir_ray.errors import StageError
from tapir_ray.steps.rebalance import SALT, mark_rest, shares, stored

WEIGHTS = {"Math": 0.5, "Writing": 0.25, "Grammar": 0.25}
TAXONOMY = dataclasses.replace(tasks.load(Curriculum()), weights={**tasks.load(Curriculum()).weights, **WEIGHTS})
SEED = 7


def rows_of(task: str | None, count: int, status: str = "ok") -> list[dict[str, str | None]]:
    return [
        {"instruction_id": f"{task}-{status}-{n}", "task": task, "status": status, "reason": None} for n in range(count)
    ]


def table(rows: list[dict[str, str | None]]) -> pa.Table:
    return pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in rows[0]]))


def test_quotas_follow_the_weights_and_the_rows_of_each_task() -> None:
    assert shares({"Math": 100, "Writing": 100, "Grammar": 100}, 40, TAXONOMY) == {
        "Math": 20,
        "Writing": 10,
        "Grammar": 10,
    }
    # A task with too few rows gives all of them; the others share the rest by their weights.
    assert shares({"Math": 2, "Writing": 100, "Grammar": 100}, 40, TAXONOMY) == {
        "Math": 2,
        "Writing": 19,
        "Grammar": 19,
    }
    assert sum(shares({"Math": 2, "Writing": 3}, 40, TAXONOMY).values()) == 5
    with pytest.raises(StageError, match="mixture weight"):
        shares({"unknown": 5}, 4, TAXONOMY)


def test_the_rows_with_the_lowest_hashes_stay_in_any_order() -> None:
    math, writing, grammar = rows_of("Math", 30), rows_of("Writing", 5), rows_of("Grammar", 4)
    other = [*rows_of(None, 2), *rows_of("Others", 3), *rows_of("Math", 3, "filtered"), *rows_of(None, 1, "failed")]
    lowest = sorted(keys(table(math)["instruction_id"], SEED, SALT).tolist())[9]
    last = b"".join(part.to_bytes(8, "big") for part in lowest).hex()
    made = {
        "rows": {"Math": 30, "Writing": 5, "Grammar": 4},
        "quota": {"Math": 10, "Writing": 5, "Grammar": 0},
        "last": {"Math": last},
    }
    chosen = stored(made, SEED)
    kept: list[set[str]] = []
    for size in (1, 7, 100):
        rows = [*math, *writing, *grammar, *other]
        random.Random(size).shuffle(rows)
        blocks = [mark_rest(table(rows[at : at + size]), chosen).to_pylist() for at in range(0, len(rows), size)]
        marked = [row for block in blocks for row in block]
        assert len(marked) == len(rows)
        kept.append({row["instruction_id"] for row in marked if row["status"] == "ok"})
        dropped = Counter((row["reason"], row["task"]) for row in marked if row["reason"] is not None)
        assert dropped == {
            ("rebalanced", "Grammar"): 4,
            ("rebalanced", "Math"): 20,
            ("no_task", None): 2,
            ("no_weight", "Others"): 3,
        }
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == 15 and {row["instruction_id"] for row in writing} <= kept[0]
