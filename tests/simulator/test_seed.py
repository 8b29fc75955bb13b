"""The seed file: skewed, complete, and equal for equal seeds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tapir_ray.simulator import write_seed
from tapir_ray.simulator.families import FAMILIES, LEVELS, grade


def test_seed_rows_are_right_skewed_and_cover_every_cell(tmp_path: Path) -> None:
    write_seed(tmp_path / "seed.jsonl", rows=3600, seed=3)
    rows = [json.loads(line) for line in (tmp_path / "seed.jsonl").read_text().splitlines()]
    assert len(rows) == 3600
    assert len({row["instruction"] for row in rows}) == 3600
    assert all(grade(row["instruction"], row["output"]) == 1.0 and row["input"] == "" for row in rows)
    cells = Counter((row["family"], row["level"]) for row in rows)
    assert min(cells[family.name, level] for family in FAMILIES for level in LEVELS) >= 0.004 * 3600
    tasks = Counter(row["task"] for row in rows)
    assert tasks["Math"] + tasks["Reasoning"] < 0.15 * 3600
    assert sum(row["level"] <= 2 for row in rows) > 0.6 * 3600
    assert len({row["family"] for row in rows[:100]}) > 5


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_seed(tmp_path / name, rows=300, seed=seed)
    first, again, other = ((tmp_path / name).read_text() for name in "abc")
    assert first == again != other
