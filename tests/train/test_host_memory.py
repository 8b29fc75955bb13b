"""Host memory of a worker while it reads a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapir_ray.config import CreateModel
from tapir_ray.train.create_student import create_student

ROOT = Path(__file__).parents[2]
SIZE = CreateModel(hidden_size=512, intermediate_size=2048, layers=24, heads=8, vocab_size=1024)


@pytest.mark.slow
def test_zero_3_never_holds_the_whole_model(tmp_path: Path) -> None:
    """Each of two workers holds half of it, and one more layer while it reads."""
    create_student(SIZE, ["one two three"], str(tmp_path / "model"), None, seed=0)
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "tests.train.reads_a_model",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *command, str(tmp_path / "model"), str(tmp_path)], check=True, env=environment, timeout=200
    )
    for rank in (0, 1):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told["whole_mib"] > 350
        assert 0.5 * told["whole_mib"] < told["peak_mib"] < 0.8 * told["whole_mib"], told
