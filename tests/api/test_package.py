"""`import tapir_ray` is cheap. Its names are the functions, which the packages `run` and `evaluate` do not replace."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import tapir_ray as tapir

FUNCTIONS = ("check", "preview", "run", "regenerate", "judge", "classify", "evaluate")
IMPORTED = """
import json, sys
import tapir_ray, tapir_ray.config
print(json.dumps([name for name in ("ray", "torch", "vllm", "transformers", "datasets") if name in sys.modules]))
"""


def test_the_import_loads_neither_ray_nor_torch_nor_vllm() -> None:
    found = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_importing_the_packages_of_the_same_name_keeps_the_functions() -> None:
    from tapir_ray.evaluate import registry
    from tapir_ray.run import layout

    assert registry and layout
    assert inspect.isfunction(tapir.run) and inspect.isfunction(tapir.evaluate)
    assert sys.modules["tapir_ray.run"] is not tapir.run


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_types_and_says_what_it_returns_and_raises(name: str) -> None:
    function = getattr(tapir, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(one.annotation is not inspect.Parameter.empty for one in signature.parameters.values())
    assert "eturns" in function.__doc__ and "Raises InputError" in function.__doc__


def test_names_are_listed_and_others_are_refused() -> None:
    assert {*FUNCTIONS, "Run", "Config", "InputError"} <= set(dir(tapir))
    with pytest.raises(AttributeError, match="has no attribute 'rnu'"):
        _ = tapir.rnu
