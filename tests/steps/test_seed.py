"""Unusable seed data is refused before anything is spent, with the change to make."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.cost.seed_sample import read_seed
from tapir_ray.errors import InputError
from tapir_ray.steps import holdout, seed
from tests.steps.contexts import context_for, rows_of, write

GOOD = {"instruction": "i", "output": "o", "kind": "Math"}


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ([GOOD, {"instruction": "x", "output": 5}], {}, "seed.jsonl:2: output is not text"),
        ([{"prompt": "a"}, {"prompt": "b"}], {}, "no row has a response; set seed_data.responses: fill"),
        ([{"prompt": "a", "reply": "b"}], {}, "`reply` has the answers, set seed_data.columns: {response: NAME}"),
        (
            [{"text": "[INST] q [/INST] a"}],
            {},
            "no usable row among 1 (unsupported 1); the first: seed.jsonl:1: transcript",
        ),
        ([GOOD], {"seed_data": {"format": "prompt"}}, "seed.jsonl:1: no column prompt"),
        (
            [GOOD],
            {"seed_data": {"task_column": "task"}, "classify": {"by": "column"}},
            "seed_data.task_column task: no row has a value in this column; the other columns are kind",
        ),
        ([GOOD, {**GOOD, "kind": "Maths"}], {"seed_data": {"task_column": "kind"}}, "unknown task 'Maths'"),
        (
            [GOOD, {**GOOD, "kind": "Chess"}],
            {
                "seed_data": {"task_column": "kind"},
                "curriculum": {"tasks": "seed"},
                "rewrite": {"tasks": ["Chess", "Go"]},
            },
            "rewrite.tasks: unknown task 'Go'; the tasks are Math, ",
        ),
    ],
    ids=[
        "malformed",
        "no response",
        "other answer",
        "transcript",
        "no prompt",
        "no task",
        "unknown task",
        "unknown task to style",
    ],
)
def test_unusable_seed_data_is_refused_with_the_reason(
    tmp_path: Path, ray_local: None, rows: list[Any], settings: dict[str, Any], words: str
) -> None:
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", rows), **settings)
    with pytest.raises(InputError) as error:
        seed.read(context)
    assert words in str(error.value)
    assert context.run.done("seed/read") is None


def test_a_broken_file_is_refused_even_if_malformed_rows_are_skipped(tmp_path: Path, ray_local: None) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "a.jsonl", [GOOD, "{broken"])
    (tmp_path / "data" / "b.json").write_text(json.dumps([GOOD])[:-5])
    context = context_for(tmp_path, str(tmp_path / "data"), seed_data={"skip_malformed": True})
    with pytest.raises(InputError, match=r"b\.json:1: the file is cut short or not JSON"):
        seed.read(context)


def test_turns_of_a_conversation_share_a_split(tmp_path: Path, ray_local: None) -> None:
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


def test_an_unused_column_is_named_once(tmp_path: Path, ray_local: None, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{**GOOD, "instruction": f"i{n}", "hint": "h" if n < 3 else None, "score": 5} for n in range(4)]
    path = write(tmp_path / "seed.jsonl", [*rows, "{broken"])
    settings = {"task_column": "kind", "skip_malformed": True}
    context = context_for(tmp_path, path, seed_data=settings, curriculum={"tasks": "seed"})
    seed.read(context)
    seed.read(context)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "not used" in line]
    assert "a text column is not used and is kept in meta: `hint` (3 of 5 rows)" in line
    (event,) = context.run.events(seed.UNUSED)
    assert (event["rows"], event["columns"]) == (5, {"hint": 3})
    read = rows_of(context, "seed/read")
    assert [json.loads(row["meta"] or "{}").get("hint") for row in read] == ["h", "h", "h", None, None]


@pytest.mark.parametrize(
    ("row", "settings", "words"),
    [
        ({"prompt": "p", "question": "q", "output": "a"}, {}, "`prompt` and `question` could both be the prompt"),
        ({"prompt": "p", "output": "a", "answer": "b"}, {}, "{response: output} or {response: answer}"),
        (GOOD, {"columns": {"context": "page"}}, "no row has the column page of seed_data.columns.context"),
    ],
)
def test_ambiguous_columns_are_refused_even_if_malformed_rows_are_skipped(
    tmp_path: Path, ray_local: None, row: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "seed.jsonl", [GOOD, row, "{broken"])
    context = context_for(tmp_path, path, seed_data={"skip_malformed": True, **settings})
    with pytest.raises(InputError, match=re.escape(words)):
        seed.read(context)
    with pytest.raises(InputError, match=re.escape(words)):
        read_seed(context.config)
