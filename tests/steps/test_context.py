"""Context shared by every step: writing a table reports events found on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapir_ray.data.schemas import SCORED
from tapir_ray.run.layout import Table
from tests.steps.contexts import context_for, write
from tests.transforms.asking import dataset, instruction


def test_a_judge_asked_in_plain_text_is_reported_once(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", [{"instruction": "q", "output": "a"}]))
    found = iter([["judge"], []])
    monkeypatch.setattr(context.roles, "found_plain", lambda: next(found))
    for table in ("one", "two"):
        context.write(Table(table, SCORED), dataset([instruction("q")]), table)
    assert capsys.readouterr().err.count("judge: its endpoint refuses response_format") == 1
    assert [event["role"] for event in context.run.events("plain_text")] == ["judge"]
