"""A round's filters: their table is stored, and can stop the round before an answer is paid for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tapir_ray.curriculum.plan import Plan
from tapir_ray.data.schemas import conform, instruction_id
from tapir_ray.errors import StageError
from tapir_ray.steps import generate, round_zero
from tests.data.test_contamination_index import question
from tests.steps.contexts import context_for, rows_of, write

ROWS = 40


class Asked(Exception):
    """A request for an answer."""


def refuse(*_: Any) -> None:
    raise Asked


@pytest.mark.parametrize(("alike", "error"), [(36, StageError), (12, Asked)])
def test_a_repetitive_teacher_is_not_paid_for_answers(
    alike: int, error: type[Exception], tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = write(tmp_path / "seed.jsonl", [{"instruction": question(n, 20), "output": "a"} for n in range(60)])
    context = context_for(tmp_path, seeds)
    round_zero.ingest(context)
    rows = []
    for number in range(ROWS):
        text = f"{question(1000, 30)} {number}" if number < alike else question(2000 + number, 30)
        messages = [{"role": "user", "content": text}]
        made = {"draw_id": f"{number:032x}", "instruction_id": instruction_id(messages), "messages": messages}
        rows.append({**made, "round": 1, "split": "generated", "source": "generated", "status": "ok"})
    context.run.write_rows("rounds/01/expanded", conform(rows, generate.CHECKED))
    monkeypatch.setattr(generate, "annotation", lambda _: refuse)
    plan = cast(Plan, SimpleNamespace(expand={"Math": ROWS}))
    for _ in range(2):
        with pytest.raises(error, match=rf"{alike - 1} of {ROWS} rows .*expand\.temperature" if alike > 30 else None):
            generate.generate(context, 1, plan)
    assert context.run.manifest("rounds/01/checked").reasons == {"near_duplicate": alike - 1}
    assert len(rows_of(context, "rounds/01/checked")) == ROWS
    assert context.run.done("rounds/01/generated") is None
    assert [event["reason"] for event in context.run.events("filter_share")] == ["near_duplicate"]
