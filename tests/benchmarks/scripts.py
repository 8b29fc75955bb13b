"""Loader of the scripts in `benchmarks/` as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def script(name: str) -> ModuleType:
    """Loads `benchmarks/NAME.py` under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", Path(__file__).parents[2] / f"benchmarks/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
