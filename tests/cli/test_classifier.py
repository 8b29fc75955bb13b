"""`tapir classifier` on rows whose tasks the user gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapir_ray.cli.classifier import READ_ROWS, read_rows, task_files
from tapir_ray.errors import InputError
from tests.steps.contexts import context_for, rows_of, write


def rows(*texts: str, **columns: Any) -> list[dict[str, Any]]:
    return [{"instruction": text, "input": "", "output": "x", **columns} for text in texts]


@pytest.mark.slow
def test_tasks_come_from_a_column_or_name_whole_files(tmp_path: Path, ray_local: None) -> None:
    math = write(tmp_path / "math.jsonl", rows("2 + 2?", "3 + 3?"))
    own = write(tmp_path / "own=1.jsonl", [*rows("Write.", kind="Writing"), *rows("Who?")])
    code = write(tmp_path / "code.jsonl", rows("Sort a list."))
    context = context_for(tmp_path, math, seed_data={"task_column": "kind", "limit": 1})
    files = task_files([f"Math={math}", own, f"Code Generation={code}"], context.config, context.taxonomy)
    assert files == {"Math": [math], None: [own], "Code Generation": [code]}
    read_rows(context, files, READ_ROWS)
    found = {row["messages"][0]["content"]: row["task"] for row in rows_of(context, READ_ROWS)}
    expected = {"2 + 2?": "Math", "3 + 3?": "Math", "Write.": "Writing", "Who?": None}
    assert found == {**expected, "Sort a list.": "Code Generation"}


def test_tasks_outside_the_taxonomy_are_refused(tmp_path: Path, ray_local: None) -> None:
    own = write(tmp_path / "own.jsonl", rows("Boil.", kind="Cooking"))
    context = context_for(tmp_path, own, seed_data={"task_column": "kind"})
    with pytest.raises(InputError, match=r"column kind of --rows .*own\.jsonl: unknown task 'Cooking'"):
        read_rows(context, {None: [own]}, READ_ROWS)
    with pytest.raises(InputError, match=r"--rows Cooking=.*: unknown task 'Cooking'"):
        task_files([f"Cooking={own}"], context.config, context.taxonomy)
