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


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_takes_its_own_folder_off_the_path(name: str) -> None:
    """`benchmarks/requests.py` hid the package `requests` from a script, which then could not import Ray."""
    text = (ROOT / "benchmarks" / f"{name}.py").read_text()
    if "main()" not in text or "from tapir_ray" not in text:
        return
    assert "sys.path" in text.partition("from tapir_ray")[0] or "-m benchmarks" in text, "set sys.path[0] before"
