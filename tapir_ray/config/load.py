"""Reads a configuration from a YAML file and `--set a.b=c`; each mistake gets one sentence.

config = load("configs/demo.yaml", ["curriculum.rounds=3"])
load("configs/demo.yaml", ["curriculum.round=3"])       # InputError: … unknown key; did you mean rounds?
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tapir_ray.config.config import Config
from tapir_ray.config.contradictions import refuse_contradictions, without_generated_seed
from tapir_ray.config.credentials import refuse_secrets
from tapir_ray.config.keys import section_of
from tapir_ray.config.renamed import RENAMED
from tapir_ray.config.section import Section
from tapir_ray.config.yaml_files import Read, read_yaml
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError

SECRETIVE = (("base_url",), ("api_key_env",))
"""Keys whose wrong value is not shown in errors: it may be a secret that no pattern recognises."""
LONGEST_VALUE = 80
"""Characters of a wrong value that an error shows."""


@dataclass(frozen=True)
class Override:
    """One `--set`: the parts of the key, the value read as YAML, and the text as written."""

    path: tuple[str, ...]
    value: Any
    written: str


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Returns the configuration in `path` with `a.b=c` overrides applied; values are YAML.

    An override wins over the file. Raises InputError, one sentence that names the file and the key.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the config {path}: {getattr(error, 'strerror', error)}") from error
    read = read_yaml(data, str(path))
    if not isinstance(read.value, dict):
        raise InputError(f"{path} is empty or not a mapping of keys to values")
    _refuse_empty_sections(read, (), str(path))
    given = [read_override(override) for override in overrides or []]
    return _parsed(read.value, given, where=str(path))


def changed(config: Config, overrides: list[str]) -> Config:
    """Returns a config with `a.b=c` overrides applied. Raises InputError as `load` does."""
    # Defaults are left out, so that validators see only keys that were given.
    content = config.model_dump(mode="json", exclude_unset=True)
    return _parsed(content, [read_override(override) for override in overrides], "config", whole=True)


def parse(content: dict[str, Any], where: str = "config") -> Config:
    """Validates a mapping. Raises InputError that names the first bad key and counts the others."""
    return _parsed(content, [], where)


def _parsed(content: dict[str, Any], overrides: list[Override], where: str, whole: bool = False) -> Config:
    """Returns the config of a file's content and overrides; `whole` content holds keys that no user gave."""
    _refuse_repeats(overrides)
    in_file = set() if whole else set(_keys(content, ()))
    for override in overrides:
        _apply(content, override)
    in_overrides = {key for override in overrides for key in _keys_of(override)}
    try:
        refuse_secrets(content)  # first, since the errors below show values
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    content = without_generated_seed(content, in_overrides)
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {_sentence(error)}") from error
    try:
        refuse_contradictions(config, in_file, in_overrides)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return config


def read_override(written: str) -> Override:
    """Returns the key and value of `a.b=c`. Raises InputError that begins with `--set a.b=c`."""
    key, separator, text = written.partition("=")
    path = tuple(key.split("."))
    written = one_line(written)  # A key may hold a line break, and an error is one line.
    if not separator or not all(path):
        raise InputError(f"--set {written}: write it as key.subkey=value")
    read = read_yaml(text, f"--set {written}: the value")
    if isinstance(read.value, str) and "#" in text and "#" not in read.value:
        raise InputError(f"--set {written}: the value ends at the #, which begins a comment; put it in quotes")
    if text:
        _refuse_empty_sections(read, path, f"--set {written}")
    return Override(path, read.value, written)


def _refuse_repeats(overrides: list[Override]) -> None:
    """Raises InputError for an override that replaces an earlier one: of the same key, or of its section."""
    for number, later in enumerate(overrides):
        for earlier in overrides[:number]:
            if ".".join(later.path) in _keys_of(earlier):
                raise InputError(f"--set {later.written}: --set {earlier.written} sets the same key; give it once")


def _apply(content: dict[str, Any], override: Override) -> None:
    node = content
    *parents, last = override.path
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise InputError(f"--set {override.written}: {parent} is a value, not a section")
    node[last] = override.value


def _keys(content: Any, path: tuple[str, ...]) -> Iterable[str]:
    """Yields the keys of nested mappings, as `a.b`."""
    if path:
        yield ".".join(path)
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _keys(value, (*path, str(key)))


def _keys_of(override: Override) -> Iterable[str]:
    parents = (".".join(override.path[:length]) for length in range(1, len(override.path)))
    return [*parents, *_keys(override.value, override.path)]


def _refuse_empty_sections(read: Read, inside: tuple[str, ...], where: str) -> None:
    """Raises InputError for a section with nothing after its colon: it may be unfinished, or mean the defaults."""
    for path in read.empty:
        key = (*inside, *path)
        if _section_at(key) is not None:
            raise InputError(
                f"{where}: the section {'.'.join(key)} is empty: give it keys, write {{}} for its defaults, or leave "
                "it out"
            )


def _section_at(path: Iterable[int | str]) -> type[Section] | None:
    """Returns the section class at a key; None if the key is not a section."""
    section: type[Section] = Config
    for part in path:
        if str(part).isdigit():
            continue  # an index in a list of sections
        found = section_of(section.model_fields[str(part)]) if str(part) in section.model_fields else None
        if found is None:
            return None
        section = found
    return section


def _sentence(error: ValidationError) -> str:
    # Unknown keys first: a missing key is often a misspelt one.
    first, *others = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    place = first["loc"]
    key = ".".join(str(part) for part in place)
    message = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        message = f"unknown key; {_hint(place)}"
    elif place and first["type"] in ("model_type", "model_attributes_type"):
        message = f"this is a section: give it keys, or leave it out{_shown(place, value)}"
    elif first["type"] == "string_type" and isinstance(value, bool | int | float):
        message = f"{message}{_shown(place, value)}: put it in quotes"
    elif "input" in first and not isinstance(value, dict):
        message = f"{message}{_shown(place, value)}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{key}: {message}{more}" if key else f"{message}{more}"


def _shown(place: tuple[int | str, ...], value: Any) -> str:
    if place[-1:] in SECRETIVE:
        return ""
    text = repr(value)
    return f" (it is {text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + '…'})"


def _hint(place: tuple[int | str, ...]) -> str:
    """Suggests a key in place of an unknown one: its new name, a similar one, or the list of keys."""
    if (new := RENAMED.get(".".join(map(str, place)))) is not None:
        return f"since 0.2 it is called {new}"
    section = _section_at(place[:-1])
    if section is None:
        return "leave it out"
    near = difflib.get_close_matches(str(place[-1]), section.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(section.model_fields)}"
