"""What lies in `cluster/`, and what it is held against: the project's pins, and schemas that know no other fields."""

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
    """The exact version that pyproject.toml asks for, in its dependencies or its extra `gpu`."""
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]]
    (version,) = {
        found["version"]
        for line in asked
        if (found := re.fullmatch(r"(?P<name>[\w-]+)(\[.*\])?==(?P<version>[\d.]+)", line)) and found["name"] == package
    }
    return version


def documents(name: str) -> list[dict[str, Any]]:
    """The YAML documents of `cluster/NAME`, aliases written out."""
    return [plain(document) for document in yaml.safe_load_all((CLUSTER / name).read_text())]


def plain(value: Any) -> Any:
    """A copy in which no two places are the same object, so that a change at one place is a change at one place."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def keys(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every key in nested dicts and lists."""
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
    """A copy with one more letter in the key at `path`."""
    wrong = copy.deepcopy(document)
    parent = at(wrong, path[:-1])
    parent[f"{path[-1]}x"] = parent.pop(path[-1])
    return wrong


def changed(document: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """A copy with `value` at `path`."""
    wrong = copy.deepcopy(document)
    at(wrong, path[:-1])[path[-1]] = value
    return wrong


def without(document: dict[str, Any], path: Path_) -> dict[str, Any]:
    """A copy without the key at `path`."""
    wrong = copy.deepcopy(document)
    del at(wrong, path[:-1])[path[-1]]
    return wrong


def closed(schema: Any) -> Any:
    """A copy of a CRD's schema in which a field that it does not name is an error, as it is to no API server."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: closed(inner) for key, inner in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and "additionalProperties" not in schema:
        strict["additionalProperties"] = False
    return strict
