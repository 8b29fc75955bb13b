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
NOT_RUN = "<!-- not run by the tests"
"""Begin of the comment above an example that needs an engine."""


def examples() -> list[str]:
    """Returns the page's Python examples, without those that need an engine."""
    parts = re.split(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    before, code = parts[::2], parts[1::2]
    return [one for text, one in zip(before, code, strict=False) if NOT_RUN not in text]


@pytest.mark.timeout(900)
def test_the_examples_of_the_page_run(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"config": {**CONFIG, "student": {**CONFIG["student"], **SIMULATED}}}
    found = examples()
    assert len(found) == 6
    for code in found:
        exec(compile(code, "docs/python.md", "exec"), names)
    assert names["hardest"]["difficulty"] is not None, "both answers have a score"
    assert len(names["again"].table("dataset")) == 1, "the repeated row is filtered"
    assert "round 1 score" in capsys.readouterr().out
