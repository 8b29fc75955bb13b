"""The demo's benchmark: which runs may overwrite the committed figures."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "demo_gain.py"


@pytest.fixture()
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module whose runs take no time; its committed results are in a temporary folder."""
    spec = importlib.util.spec_from_file_location("demo_gain", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    gain = {"mean": 1.0, "low": 0.5, "high": 1.5}
    figures = {"gain": gain, "rounds_against_control": gain, "versions": {}}
    figures |= {"after_sft": 1.0, "after_rounds": 2.0, "control": 1.0}
    monkeypatch.setattr(module, "figures_of", lambda *_: figures)
    monkeypatch.setattr(module, "RESULT", tmp_path / "committed" / "demo_gain.json")
    return module


@pytest.mark.parametrize(
    ("words", "committed"),
    [
        ([], True),
        (["--seeds", "2", "0", "1", "4", "3"], True),
        (["--quick"], False),
        (["--seeds", "0"], False),
        (["--seeds", "0", "1", "2", "3"], False),
        (["--set", "curriculum.rounds=2"], False),
    ],
)
def test_only_the_full_default_set_overwrites_the_committed_results(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], committed: bool
) -> None:
    work = tmp_path / "work"
    monkeypatch.setattr(sys, "argv", ["demo_gain.py", "--work-dir", str(work), *words])
    assert benchmark.main() == 0
    written = benchmark.RESULT if committed else work / "demo_gain.json"
    ratios = json.loads(written.read_text())["ratios"]
    assert ratios == {"seeds_above_sft": 1, "seeds_above_control": 1, "score_after_rounds": 2, "score_over_control": 1}
    assert len(list(tmp_path.rglob("demo_gain.json"))) == 1
