"""Files in `cluster/`, the pins of the project, and schemas in which every unknown field is an error."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = re.compile(r"(?P<registry>\S+)/tapir-ray:(?P<project>[\d.]+)-ray(?P<ray>[\d.]+?)")

Step = str | int
Path_ = tuple[Step, ...]


def pin(package: str) -> str:
    """Returns the exact version of a package that pyproject.toml asks for, in its dependencies or its extra `gpu`."""
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]]
    (version,) = {
        found["version"]
        for line in asked
        if (found := re.fullmatch(r"(?P<name>[\w-]+)(\[.*\])?==(?P<version>[\d.]+)", line)) and found["name"] == package
    }
    return version


def documents(name: str) -> list[dict[str, Any]]:
    """Returns the YAML documents of `cluster/NAME`, with aliases expanded."""
    return [plain(document) for document in yaml.safe_load_all((CLUSTER / name).read_text())]


def plain(value: Any) -> Any:
    """Returns a copy without shared objects, so that a change in one place stays in one place."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def keys(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """Yields the path of every key in nested dicts and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in inner:
        if isinstance(value, dict):
            yield (*path, step)
        yield from keys(below, (*path, step))


def at(value: Any, path: Path_) -> Any:
    for step in path:
        value = value[step]
    return value


def misspelt(document: dict[str, Any], path: Path_) -> dict[str, Any]:
    """Returns a copy with one more letter in the key at `path`."""
    wrong = copy.deepcopy(document)
    parent = at(wrong, path[:-1])
    parent[f"{path[-1]}x"] = parent.pop(path[-1])
    return wrong


def changed(document: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """Returns a copy with `value` at `path`."""
    wrong = copy.deepcopy(document)
    at(wrong, path[:-1])[path[-1]] = value
    return wrong


def without(document: dict[str, Any], path: Path_) -> dict[str, Any]:
    """Returns a copy without the key at `path`."""
    wrong = copy.deepcopy(document)
    del at(wrong, path[:-1])[path[-1]]
    return wrong


def closed(schema: Any) -> Any:
    """Returns a copy of a CRD's schema in which an unknown field is an error; an API server accepts such fields."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: closed(inner) for key, inner in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        strict["additionalProperties"] = False
    return strict
