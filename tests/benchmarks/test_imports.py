"""Benchmarks and jobs name modules and functions that exist: each is imported, not run."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    file.stem for file in (ROOT / "benchmarks").glob("*.py") if file.stem not in ("__init__", "train_peers")
)
"""Scripts with optional packages: `train_peers` needs TRL, which is in the extra `bench`."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_can_be_imported(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
