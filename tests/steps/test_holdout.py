"""The holdout depends on the rows' ids alone: equal numbers from each stratum, in any order."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pyarrow as pa
import ray.data

from tapir_ray.curriculum.sampling import count_cells, cutoffs
from tapir_ray.data.schemas import INSTRUCTIONS, conform, instruction_id, with_columns
from tapir_ray.steps.holdout import _mark, with_strata


def rows(n: int) -> pa.Table:
    messages = [[{"role": "user", "content": f"q{at}"}] for at in range(n)]
    made = [
        {
            "instruction_id": instruction_id(one),
            "split": "seed",
            "messages": one,
            "status": "filtered" if at % 10 == 9 else "ok",
            "meta": json.dumps({"level": at % 3}),
        }
        for at, one in enumerate(messages)
    ]
    return conform(made, INSTRUCTIONS)


def held(table: pa.Table, blocks: int) -> dict[str, int]:
    dataset = ray.data.from_arrow(
        [table.slice(at, -(-len(table) // blocks)) for at in range(0, len(table), -(-len(table) // blocks))]
    )
    strata = dataset.map_batches(
        with_strata, fn_kwargs={"columns": ["level"]}, batch_format="pyarrow", batch_size=None, num_cpus=0.1
    )
    found = count_cells(strata, 0, ("holdout",))
    chosen = cutoffs(strata, found, {cell: 7 for cell in found.capacities})
    marked = _mark(table, ["level"], chosen).to_pylist()
    assert {row["status"] for row in marked if row["split"] == "holdout"} == {"ok"}
    return {row["instruction_id"]: json.loads(row["meta"])["level"] for row in marked if row["split"] == "holdout"}


def test_each_stratum_gives_equal_numbers_in_any_order(ray_local: None) -> None:
    table = rows(120)
    first = held(table, 1)
    assert Counter(first.values()) == {0: 7, 1: 7, 2: 7}
    backwards = table.take(list(range(len(table)))[::-1])
    assert held(backwards, 3) == first


def test_all_turns_of_a_conversation_have_the_same_split(ray_local: None) -> None:
    table = rows(120)
    numbers = [json.loads(meta)["level"] + 3 * (at // 12) for at, meta in enumerate(table["meta"].to_pylist())]
    conversations = [f"{number:032x}" for number in numbers]
    table = with_columns(table, conversation_id=pa.array(conversations))
    found = held(table, 3)
    sides: dict[str, set[bool]] = defaultdict(set)
    ok = [row for row in table.to_pylist() if row["status"] == "ok"]
    for row in ok:
        sides[row["conversation_id"]].add(row["instruction_id"] in found)
    assert {len(side) for side in sides.values()} == {1}
    assert set().union(*sides.values()) == {True, False}
    largest = max(Counter(row["conversation_id"] for row in ok).values())
    assert all(7 <= n < 7 + largest for n in Counter(found.values()).values())
    assert held(table.take(list(range(len(table)))[::-1]), 2) == found
