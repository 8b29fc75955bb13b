"""The benchmark of large datasets: the texts it generates, the memory it watches and the results it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale_data
from benchmarks.process_memory import peaks
from tests.benchmarks.scripts import script

scale = script("scale")


def measured(seconds: float, steps: dict[str, float], driver: float) -> dict[str, Any]:
    return {"seconds": seconds, "steps": steps, "peak_mib": {"driver": driver, "any": driver}}


def test_a_step_that_grows_faster_than_the_rows_misses_its_bar() -> None:
    small = measured(100.0, {"linear": 60.0, "square": 1.0, "short": 0.01}, 400.0)
    large = measured(1100.0, {"linear": 590.0, "square": 100.0, "short": 4.0}, 800.0)
    ratios = scale.of_regenerate({1_000_000: large, 100_000: small})
    assert ratios["regenerate: a row of square, larger against smaller"] == pytest.approx(10)
    assert ratios["regenerate: the step that grows most, of its bar"] == pytest.approx(10 / scale.STEP_RATIO)
    assert ratios["regenerate: a row, of its bar"] == pytest.approx(0.1 / 0.15)
    assert ratios["regenerate: driver, of its bar"] < 1 < ratios["regenerate: driver, larger against smaller"]


def test_sizes_are_measured_in_turn_and_seconds_are_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([10.0, 200.0, 40.0, 100.0, 20.0])
    asked = []

    def measure(part: str, rows: int) -> dict[str, Any]:
        asked.append(rows)
        took = next(seconds)
        return {**measured(took, {"all": took}, took), "start_seconds": took / 10, "made": {"rows": rows}}

    monkeypatch.setattr(scale, "measure", measure)
    found = scale.in_turn("regenerate", (100_000, 1_000_000))
    assert asked == [100_000, 1_000_000, 100_000, 1_000_000, 100_000]
    small, large = found[100_000], found[1_000_000]
    assert small["seconds"] == small["steps"]["all"] == 20 and small["rounds"] == [10, 40, 20]
    assert small["peak_mib"]["driver"] == 40 and small["start_seconds"] == 2
    assert large["seconds"] == 150 and large["rows_per_second"] == pytest.approx(6666.7)


def test_a_part_keeps_the_figures_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.result.FOLDER", tmp_path)
    for ratio in (0.1, 0.2):
        scale.merge("curriculum", {"curriculum: seconds, of its bar": ratio}, {"10": {}}, False)
        scale.merge("duplicates", {"duplicates: seconds, of its bar": 0.5}, {"20": {}}, False)
    result = json.loads((tmp_path / "scale.json").read_text())
    assert result["ratios"] == {"curriculum: seconds, of its bar": 0.2, "duplicates: seconds, of its bar": 0.5}
    assert result["figures"]["curriculum"] == {"10": {}} and result["figures"]["duplicates"] == {"20": {}}


def test_the_memory_of_a_process_and_its_children_is_measured() -> None:
    held = "import time; held = bytearray(60 << 20); time.sleep(1.5)"
    code = f"import subprocess, sys; held = bytearray(30 << 20); subprocess.run([sys.executable, '-c', '{held}'])"
    found = peaks(subprocess.Popen([sys.executable, "-c", code]))
    assert 30 < found["driver"] < 60 < found["any"] < found["all"]
    assert found["worker"] == 0


def test_texts_repeat_and_change_at_the_given_rates() -> None:
    rows = 2_000
    made = list(chain(*scale_data.texts(rows)))
    assert made == list(chain(*scale_data.texts(rows))) and len(made) == rows
    assert (rows - len(set(made))) / rows == pytest.approx(scale_data.REPEATED, rel=0.5)
    longer = sum(text.rpartition(" ")[0] in made for text in set(made)) / rows
    assert longer == pytest.approx(scale_data.CHANGED, rel=0.5)
    assert not set(made) & set(chain(*scale_data.texts(rows, first=rows)))
