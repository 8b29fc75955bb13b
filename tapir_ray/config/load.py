"""Reading a configuration: a YAML file, `--set a.b=c`, and one sentence for each mistake."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from tapir_ray.config.config import Config
from tapir_ray.config.section import Section
from tapir_ray.credentials import refuse_secrets
from tapir_ray.errors import InputError

SECRETIVE = (("base_url",), ("api_key_env",))
"""Keys whose wrong value may be a secret that no pattern knows, and is not repeated."""


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """The configuration in `path` with `a.b=c` overrides applied (values are YAML).

    Raises InputError with one sentence that names the file and the key.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {_problem(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is empty or not a mapping of keys to values")
    for override in overrides or []:
        _apply(content, override)
    return parse(content, where=str(path))


def changed(config: Config, overrides: list[str]) -> Config:
    """A config with `a.b=c` overrides applied. Raises InputError as `load` does."""
    content = config.model_dump(mode="json", exclude_unset=True)
    for override in overrides:
        _apply(content, override)
    return parse(content)


def parse(content: dict[str, Any], where: str = "config") -> Config:
    """Validate a mapping. Raises InputError that names the first bad key and counts the others.

    A value that holds a credential is refused first, so that no other message repeats it.
    """
    try:
        refuse_secrets(content)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {_sentence(error)}") from error


def _apply(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise InputError(f"--set {override}: write it as key.subkey=value")
    node = content
    *parents, last = key.split(".")
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise InputError(f"--set {override}: {parent} is a value, not a section")
    try:
        node[last] = yaml.safe_load(value) if value else None
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: the value is not valid YAML: {_problem(error)}") from error


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong, and where. PyYAML's own text quotes a piece of the line, which may be a piece of a key."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem or error.context} (line {mark.line + 1}, column {mark.column + 1})"


def _sentence(error: ValidationError) -> str:
    first, *others = error.errors()
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key; {_hint(first['loc'])}"
    elif "input" in first and not isinstance(first["input"], dict) and first["loc"][-1:] not in SECRETIVE:
        message = f"{message} (it is {first['input']!r})"
    more = f" (and {len(others)} more)" if others else ""
    return f"{key}: {message}{more}" if key else f"{message}{more}"


def _hint(place: tuple[int | str, ...]) -> str:
    """The key that was probably meant at an unknown one's place, or the keys that there are."""
    section: type[Section] = Config
    for part in place[:-1]:
        annotation = section.model_fields[str(part)].annotation
        kinds = (annotation, *get_args(annotation))
        section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    near = difflib.get_close_matches(str(place[-1]), section.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(section.model_fields)}"
