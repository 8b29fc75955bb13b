"""Seed data of the `tasks` scenario, skewed like real seed sets: most rows are easy writing and common-sense tasks.

write_seed("seed.jsonl", rows=3600, seed=0)
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from tapir_ray.simulator.families import FAMILIES, LEVELS
from tapir_ray.simulator.tasks import answer, mistaken

FLOOR = 0.005
"""Lowest share of the rows for each (family, level), so that a stratified holdout can be split off."""
FAMILY_SHARES = {
    "writing": 0.22,
    "common_sense": 0.20,
    "grammar": 0.16,
    "paraphrase": 0.14,
    "exact_format": 0.11,
    "counterfactual": 0.05,
    "arithmetic": 0.03,
    "ordering": 0.03,
    "code_writing": 0.03,
    "code_repair": 0.03,
}
LEVEL_SHARES = {1: 0.46, 2: 0.30, 3: 0.14, 4: 0.06, 5: 0.04}
"""Shares by level of the rows above FLOOR; these and FAMILY_SHARES each sum to 1."""
ATTEMPTS = 50
"""Draws for a row before an exact duplicate is accepted: level 1 of a family can run out of instructions."""


def cell_counts(rows: int, families: Sequence[str] = ()) -> dict[tuple[str, int], int]:
    """Number of rows of each (family, level), which sum to `rows` by the largest remainder method.

    Only `families` have rows, all of their levels alike; with none named all have, by FAMILY_SHARES and LEVEL_SHARES.
    """
    free = 1.0 - FLOOR * len(FAMILY_SHARES) * len(LEVEL_SHARES)
    exact = {
        (family, level): rows * (FLOOR + free * share * level_share)
        for family, share in FAMILY_SHARES.items()
        for level, level_share in LEVEL_SHARES.items()
    }
    if families:
        cells = [(family, level) for family in families for level in LEVEL_SHARES]
        exact = dict.fromkeys(exact, 0.0) | dict.fromkeys(cells, rows / len(cells))
    counts = {cell: int(share) for cell, share in exact.items()}
    # The cells that rounding down has cut most get one row more.
    by_remainder = sorted(exact, key=lambda cell: counts[cell] - exact[cell])
    for cell in by_remainder[: rows - sum(counts.values())]:
        counts[cell] += 1
    return counts


def seed_rows(rows: int, seed: int, error_rate: float = 0.0, families: Sequence[str] = ()) -> list[dict[str, object]]:
    """Alpaca rows with plain answers and the columns `family`, `task` (its label) and `level`, in random order.

    With an `error_rate` above 0 this share of the rows has a wrong answer, that of another problem of the same family
    and level, and the column `wrong` says which. A hash of the instruction and `seed` decides.
    """
    counts = cell_counts(rows, families)
    written: set[str] = set()
    table: list[dict[str, object]] = []
    for family in FAMILIES:
        for level in LEVELS:
            # One generator for each cell, so that rows of one do not depend on the number of rows of another.
            rng = random.Random(f"seed {seed} {family.name} {level}")
            for _ in range(counts[family.name, level]):
                for _ in range(ATTEMPTS):
                    instruction = family.generate(level, rng)
                    if instruction not in written:
                        break
                written.add(instruction)
                table.append(
                    {
                        "instruction": instruction,
                        "input": "",
                        "output": family.plain(family.parse(instruction)),
                        "family": family.name,
                        "task": family.label,
                        "level": level,
                    }
                )
    random.Random(f"order {seed}").shuffle(table)
    return [_with_error(row, seed, error_rate) for row in table] if error_rate > 0.0 else table


def _with_error(row: dict[str, object], seed: int, error_rate: float) -> dict[str, object]:
    """The row with the column `wrong`, and with a wrong answer if it is true."""
    instruction = str(row["instruction"])
    rng = random.Random(f"seed error {seed} {instruction}")
    if rng.random() >= error_rate:
        return {**row, "wrong": False}
    return {**row, "output": answer(mistaken(instruction, rng), styled=False), "wrong": True}


def write_seed(path: str | Path, rows: int, seed: int, error_rate: float = 0.0, families: Sequence[str] = ()) -> None:
    """Writes `rows` rows as JSON lines; the same arguments give the same file."""
    with open(path, "w") as file:
        for row in seed_rows(rows, seed, error_rate, families):
            file.write(json.dumps(row) + "\n")
