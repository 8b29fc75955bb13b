"""Length-controlled win rate: the same as the package's own function gives, and refused for other items."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapir_ray.errors import InputError
from tapir_ray.evaluate.alpaca_eval_annotations import read_annotations
from tapir_ray.evaluate.alpaca_eval_length import COLUMNS, check, controlled_rate, length_controlled, why_not

pytestmark = pytest.mark.skipif(find_spec("alpaca_eval") is None, reason="the package alpaca-eval is not installed")

THEIRS = """
import json, sys
from alpaca_eval.metrics import get_length_controlled_winrate
found = get_length_controlled_winrate(json.load(open(sys.argv[1])), save_weights_dir=None)
print(json.dumps([float(found["length_controlled_winrate"]), float(found["lc_standard_error"])]))
"""
"""The package's own function. It fetches its table from the hub, which HF_HUB_OFFLINE answers from the cache."""


def gamed(path: Path) -> str:
    """Writes a table like the package's, of 805 instructions and two baselines that write longer or shorter."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=805)
    lines = ["model," + ",".join(COLUMNS)]
    for model, longer in (("verbose", 1.0), ("concise", -1.0)):
        for index in rng.permutation(805):
            delta = -longer + 0.3 * rng.normal()
            preference = 1 / (1 + np.exp(2 * delta + 0.5 * difficulty[index]))
            lines.append(f"{model},{index},{difficulty[index]:.6f},{preference:.6f},{delta:.6f},False")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def annotations(data_folder: Path) -> list[Any]:
    return read_annotations(str(data_folder / "eval" / "alpaca_eval" / "alpaca-7b.annotations.json.gz"))


@pytest.mark.slow
@pytest.mark.parametrize("unread", [0, 3])
def test_the_rate_is_that_of_the_package_with_the_same_table(
    annotations: list[Any], tmp_path: Path, unread: int
) -> None:
    """The package reads the table from a cache of the hub, which is laid out here with a table of the test's own."""
    snapshot = tmp_path / "hub" / "datasets--tatsu-lab--alpaca_eval"
    table = gamed(snapshot / "snapshots" / ("0" * 40) / "df_gamed.csv")
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("0" * 40)
    rows = [{**row, "preference": None} if at < unread else row for at, row in enumerate(annotations)]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(rows))
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", THEIRS, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    value, error = controlled_rate(str(file), table)
    assert [value, error] == pytest.approx(json.loads(ran.stdout.strip().splitlines()[-1]), abs=1e-6)
    assert value != pytest.approx(2.591, abs=0.1), "the table of the test moves the rate"


def test_other_items_baselines_and_evaluators_are_refused_with_a_reason(annotations: list[Any], tmp_path: Path) -> None:
    assert why_not(annotations) is None
    first, second, *others = annotations
    for changed, words in (
        (annotations[:-1], "there are 804"),
        ([second, first, *others], "in their order"),
        ([{**row, "generator_1": "gpt3"} for row in annotations], "generator_1 is gpt3"),
        ([{**first, "annotator": "chatgpt"}, second, *others], "annotator is chatgpt"),
        ([{**first, "output_2": None}, second, *others], "lacks output_1 or output_2"),
    ):
        reason = why_not(changed)
        assert reason is not None and words in reason
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        with pytest.raises(
            InputError, match=rf"changed\.json: the length-controlled win rate would be invalid: .*{words}"
        ):
            controlled_rate(str(tmp_path / "changed.json"), "not read")


def test_a_file_that_is_not_the_packages_table_is_refused(tmp_path: Path, annotations: list[Any]) -> None:
    (tmp_path / "other.csv").write_text("index,preference\n0,1\n")
    with pytest.raises(InputError, match=r"length_control .*other\.csv lacks the column instruction_difficulty"):
        check(str(tmp_path / "other.csv"))
    with pytest.raises(InputError, match=r"length_control .*none\.csv cannot be read"):
        check(str(tmp_path / "none.csv"))
    short = Path(gamed(tmp_path / "short.csv"))
    short.write_text("\n".join(line for line in short.read_text().splitlines() if ",17," not in line))
    with pytest.raises(InputError, match=r"short\.csv lacks the difficulty of 1 instructions"):
        length_controlled(annotations, str(short))
