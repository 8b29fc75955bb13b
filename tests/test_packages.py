"""Packages of `tapir_ray`: few, and in layers. No package imports one that imports it, directly or through others."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import tapir_ray

ROOT = Path(tapir_ray.__file__).parent
MOST_ENTRIES = 18
"""17 packages and files of the application, and `api/`: the same work for a program, which `cli/` prints."""
NO_PACKAGES = {"__pycache__", "py.typed"}
"""The second tells type checkers that the package has types."""
MOST_LINES = 300
LONGER = {
    "data/column_reading.py": 342,
    "data/dedup.py": 315,
    "data/files.py": 302,
    "llm/budget/ledger.py": 338,
    "run/tables.py": 309,
    "steps/train.py": 317,
    "transforms/verdict.py": 310,
}
"""Modules that are longer, with their lines. None may grow, and none may be added: split a module instead."""


def package(module: str) -> str:
    """Returns the package of a module: `run` of `tapir_ray.run.tables`."""
    return module.split(".")[1]


def imported(file: Path) -> set[str]:
    """Returns the modules of tapir_ray that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tapir_ray":
            found |= {f"tapir_ray.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tapir_ray."):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("tapir_ray.")}
    return found


def test_no_package_imports_one_that_imports_it() -> None:
    imports: dict[str, set[str]] = defaultdict(set)
    for file in ROOT.rglob("*.py"):
        mine = file.relative_to(ROOT).parts[0].removesuffix(".py")
        imports[mine] |= {package(module) for module in imported(file)} - {mine}
    assert imports["cli"] and imports["run"]
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        raise AssertionError(f"packages import each other: {' -> '.join(error.args[1])}") from error


def test_the_packages_are_few() -> None:
    entries = [entry.name for entry in ROOT.iterdir() if entry.name not in NO_PACKAGES]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_no_module_is_too_long_to_read() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in ROOT.rglob("*.py")}
    long = {name: n for name, n in lines.items() if n > MOST_LINES}
    assert {name: n for name, n in long.items() if n > LONGER.get(name, MOST_LINES)} == {}
    assert LONGER.keys() <= long.keys(), "take out of LONGER what is short enough now"
