"""Seed data refused by `tapir check`: the error gives the reason and the change to make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import parse
from tapir_ray.cost.seed_sample import read_seed
from tapir_ray.errors import InputError


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no usable row, as it has no rows"),
        ([{"prompt": "a", "reply": "b"}], r"`reply` has the answers, set seed_data.columns: \{response: NAME\}"),
        ([{"prompt": "a"}], r"no row has a response; set seed_data\.responses: fill"),
        (
            [{"messages": [{"role": "tool", "content": "x"}]}],
            r"no usable row among 1; the first: a\.jsonl:1: tool_calls",
        ),
    ],
)
def test_seed_data_without_a_usable_row_is_refused_with_the_reason(
    tmp_path: Path, rows: list[dict[str, Any]], words: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=words):
        read_seed(parse({"name": "x", "seed_data": {"path": str(path)}, "student": {"model": "m"}}))
