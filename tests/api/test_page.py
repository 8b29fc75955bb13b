"""The examples of docs/python.md run one after the other against the simulator, but for those that need an engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_calls import CONFIG
from tests.runs import ROOT, SIMULATED

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
GPU = "python gpu"
"""Label of a block that is not run."""


def blocks() -> list[tuple[str, str]]:
    """Returns (label, code) of the page's blocks."""
    return re.findall(r"^```(.*?)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.timeout(900)
def test_the_examples_of_the_page_run(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"config": {**CONFIG, "student": {**CONFIG["student"], **SIMULATED}}}
    ran = 0
    for label, code in blocks():
        assert label in ("python", GPU), label
        if label != GPU:
            exec(compile(code, "docs/python.md", "exec"), names)
            ran += 1
    assert ran >= 6
    assert names["hardest"]["difficulty"] > 0
    assert len(names["again"].table("dataset")) == 1, "the repeated row is filtered"
    assert "round 1 score" in capsys.readouterr().out
