"""JSON schema of the config, by which editors complete keys and show their docs.

    write_schema("tapir.schema.json")

A config names it in its first line: `# yaml-language-server: $schema=tapir.schema.json`.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

from tapir_ray.config import Config
from tapir_ray.config.keys import section_of
from tapir_ray.config.section import INVALIDATES, Section

NAME = "tapir.schema.json"
MODELINE = "# yaml-language-server: $schema="
"""Begin of the line by which a YAML file names its schema."""


def config_schema() -> dict[str, Any]:
    """Returns the JSON schema of a config, with the docstrings of sections and keys as descriptions."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "tapir-ray config"
    for section in _sections(Config):
        entry = schema if section is Config else schema["$defs"].get(section.__name__)
        for name, text in _docstrings(section).items():
            if entry is not None and name in entry["properties"]:
                entry["properties"][name]["description"] = text
    _without(schema, INVALIDATES)
    return schema


def write_schema(path: str | Path) -> None:
    """Writes the schema as a JSON file."""
    Path(path).write_text(json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _sections(top: type[Section]) -> set[type[Section]]:
    """Returns a section class and all classes of sections below it."""
    below = {kind for field in top.model_fields.values() if (kind := section_of(field)) is not None}
    return {top}.union(*(_sections(kind) for kind in below))


def _docstrings(section: type[Section]) -> dict[str, str]:
    """Returns the docstrings of a section's keys, those of its base classes included."""
    # Read from the source here: pydantic's `use_attribute_docstrings` would read it at every import.
    found: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        if not (issubclass(kind, Section) and kind is not Section):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        for line, following in zip(definition.body, definition.body[1:], strict=False):
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                found[line.target.id] = inspect.cleandoc(str(following.value.value))
    return found


def _without(value: Any, key: str) -> None:
    """Deletes a key from all mappings inside a value."""
    if isinstance(value, dict):
        value.pop(key, None)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _without(inner, key)
