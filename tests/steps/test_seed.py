"""Seed data that cannot be used is refused before anything is spent, with what to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.errors import InputError
from tapir_ray.steps import holdout, seed
from tests.steps.contexts import context_for, rows_of, write

GOOD = {"instruction": "i", "output": "o", "kind": "Math"}


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ([GOOD, {"instruction": "x", "output": 5}], {}, "seed.jsonl:2: output is not text"),
        ([{"prompt": "a"}, {"prompt": "b"}], {}, "no row has a response; set seed_data.responses: fill"),
        ([GOOD], {"seed_data": {"format": "prompt"}}, "seed.jsonl:1: no column prompt"),
        (
            [GOOD],
            {"seed_data": {"task_column": "task"}, "classify": {"by": "column"}},
            "seed_data.task_column task: no row has a value in this column; the columns beside the text are kind",
        ),
        ([GOOD, {**GOOD, "kind": "Maths"}], {"seed_data": {"task_column": "kind"}}, "unknown task 'Maths'"),
    ],
    ids=["malformed", "no response", "no prompt", "no task", "unknown task"],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, ray_local: None, rows: list[Any], settings: dict[str, Any], words: str
) -> None:
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", rows), **settings)
    with pytest.raises(InputError) as error:
        seed.read(context)
    assert words in str(error.value)
    assert context.run.done("seed/read") is None


def test_a_broken_file_is_refused_even_where_malformed_rows_are_skipped(tmp_path: Path, ray_local: None) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "a.jsonl", [GOOD, "{broken"])
    (tmp_path / "data" / "b.json").write_text(json.dumps([GOOD])[:-5])
    context = context_for(tmp_path, str(tmp_path / "data"), seed_data={"skip_malformed": True})
    with pytest.raises(InputError, match=r"b\.json:1: the file is cut short or not JSON"):
        seed.read(context)


def test_turns_of_a_conversation_share_a_side(tmp_path: Path, ray_local: None) -> None:
    turns = [[{"role": role, "content": f"{role} {n} {at}"} for at in range(3) for role in ("user", "assistant")]
             for n in range(40)]  # fmt: skip
    path = write(tmp_path / "seed.jsonl", [{"messages": one, "n": n} for n, one in enumerate(turns)])
    context = context_for(
        tmp_path, path, seed_data={"turns": "all"}, holdout={"rows": 20}, filter={"ngram": 0, "near_duplicate": 1.0}
    )
    seed.read(context)
    holdout.split_off(context)
    sides: dict[int, set[str]] = {}
    for row in rows_of(context, "seed/ingested"):
        sides.setdefault(json.loads(row["meta"])["n"], set()).add(row["split"])
    assert len(sides) == 40
    assert all(len(side) == 1 for side in sides.values())
    assert 7 <= sum(side == {"holdout"} for side in sides.values()) <= 8, "20 rows, rounded up to conversations of 3"
