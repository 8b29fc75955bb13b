"""Reads YAML strictly: one UTF-8 document, no key twice, no value that does not mean what it looks like.

    content = read_yaml(Path("mine.yaml").read_bytes(), "mine.yaml").value

Differs from YAML 1.1, which PyYAML follows, in these points:

- `1e-2`, `5E3` and `0o17` are numbers (YAML 1.1 reads them as text).
- `2024-01-01` is text (not a date), and so is every key (`yes: 1` has the key "yes").
- `0777` (octal), `12:30` (750, base 60), `.inf` and `.nan` are refused.
- A key that is given twice, an explicit tag such as `!!binary`, and an alias inside its own anchor are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError

_TAG = "tag:yaml.org,2002:"
NULL, BOOL, INT, FLOAT, TEXT, MERGE = (f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "merge"))
SEQUENCE, MAPPING = f"{_TAG}seq", f"{_TAG}map"
AMBIGUOUS = "!ambiguous"
MOST_VALUES = 200_000
"""Most values of a document: aliases of aliases could otherwise fill the memory from a few lines."""

_INT = r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*|0b[01]+|0o[0-7]+|0x[0-9a-fA-F]+)"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_FLOAT = rf"[-+]?(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?|[-+]?{_DIGITS}[eE][-+]?[0-9]+"
_BOOL = "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"
_OCTAL, _BASE_60 = r"[-+]?0[0-9_]+", r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
_NO_NUMBER = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_TRUE = ("yes", "true", "on")


class _Loader(yaml.SafeLoader):
    """Composes nodes; the patterns below give plain values their tags."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it


class Dumper(yaml.SafeDumper):
    """Writes YAML, with quotes around text that `read_yaml` would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes equal sections out in full: aliases are harder to edit."""
        return True


for _tag, _pattern, _first in (
    (BOOL, _BOOL, "yYnNtTfFoO"),
    (NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (MERGE, "<<", "<"),
    (INT, _INT, "-+0123456789"),
    (FLOAT, _FLOAT, "-+0123456789."),
    (AMBIGUOUS, f"{_OCTAL}|{_BASE_60}|{_NO_NUMBER}", "-+0123456789."),
):
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))


@dataclass
class Read:
    """Content of a document, and the keys with nothing after their colon (not even `null`)."""

    value: Any
    empty: list[tuple[str, ...]] = field(default_factory=list)


def text_of(data: bytes, where: str) -> str:
    """Returns the text of a UTF-8 file without its byte order mark. Raises InputError that begins with `where`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{where} is not UTF-8 text (line {line}): save it as UTF-8") from error


def read_yaml(source: bytes | str, where: str) -> Read:
    """Returns the values of one YAML document: mappings with text keys, lists, text, finite numbers, booleans, None.

    Each alias becomes a copy of its own. Raises InputError, one sentence that begins with `where` and names the line.
    """
    text = text_of(source, where) if isinstance(source, bytes) else source
    try:
        node = yaml.compose(text, Loader=_Loader)
        return _Reader(where).read(node)
    except yaml.MarkedYAMLError as error:
        place = f" (line {error.problem_mark.line + 1})" if error.problem_mark is not None else ""
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise InputError(f"{where} is not valid YAML: {problem}{place}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML: {one_line(error)}") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply to read: use fewer levels") from error


class _Reader:
    """Turns nodes of PyYAML into values."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.values = 0
        self.empty: list[tuple[str, ...]] = []

    def read(self, node: Node | None) -> Read:
        return Read(None if node is None else self._value(node, (), ()), self.empty)

    def _refuse(self, node: Node, what: str) -> NoReturn:
        raise InputError(f"{self.where}, line {node.start_mark.line + 1}: {what}")

    def _value(self, node: Node, path: tuple[str, ...], inside: tuple[int, ...]) -> Any:
        self.values += 1
        if self.values > MOST_VALUES:
            self._refuse(node, f"the document has more than {MOST_VALUES} values, aliases included")
        if id(node) in inside:
            self._refuse(node, "the anchor is used inside itself")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        inside = (*inside, id(node))
        if isinstance(node, SequenceNode) and node.tag == SEQUENCE:
            return [self._value(child, (*path, str(at)), inside) for at, child in enumerate(node.value)]
        if isinstance(node, MappingNode) and node.tag == MAPPING:
            return self._mapping(node, path, inside)
        self._refuse(node, f"the tag {node.tag.replace(_TAG, '!!')} is not supported: leave it out")

    def _mapping(self, node: MappingNode, path: tuple[str, ...], inside: tuple[int, ...]) -> dict[str, Any]:
        lines: dict[str, int] = {}
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._refuse(key_node, "a key must be text, not a list or mapping")
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in lines:
                name = ".".join((*path, key))
                self._refuse(key_node, f"the key {name} is already on line {lines[key]}: keep one of the two")
            lines[key] = line
            if key_node.tag == MERGE:
                merged = self._merged(value_node, path, inside)
            else:
                own[key] = self._value(value_node, (*path, key), inside)
        return {**merged, **own}

    def _merged(self, node: Node, path: tuple[str, ...], inside: tuple[int, ...]) -> dict[str, Any]:
        """Returns the values that `<<` adds; if several mappings have a key, the first one wins."""
        found: dict[str, Any] = {}
        for part in node.value if isinstance(node, SequenceNode) else [node]:
            if not isinstance(part, MappingNode):
                self._refuse(part, "<< takes a mapping, such as an alias, or a list of mappings")
            value = self._value(part, path, inside)
            found = {**value, **found}
        return found

    def _scalar(self, node: ScalarNode, path: tuple[str, ...]) -> Any:
        text = node.value
        if node.tag in (TEXT, "!"):
            return text
        if node.tag == NULL:
            if not text:
                self.empty.append(path)
            return None
        if node.tag == BOOL and re.fullmatch(_BOOL, text):
            return text.lower() in _TRUE
        if node.tag == INT and re.fullmatch(_INT, text):
            return self._number(node, lambda: int(text.replace("_", ""), 0))
        if node.tag in (FLOAT, INT) and re.fullmatch(f"{_FLOAT}|{_INT}", text):
            return self._number(node, lambda: float(text.replace("_", "")))
        if node.tag == AMBIGUOUS and re.fullmatch(_OCTAL, text):
            self._refuse(node, f"{text} is octal in YAML: leave out the leading 0, or put it in quotes for text")
        if node.tag == AMBIGUOUS and re.fullmatch(_BASE_60, text):
            self._refuse(node, f"{text} is a base-60 number in YAML: put it in quotes for text")
        if node.tag == AMBIGUOUS:
            self._refuse(node, f"{text} is not a finite number")
        self._refuse(node, f"{text!r} is not of the tag {node.tag.replace(_TAG, '!!')}")

    def _number(self, node: ScalarNode, parse: Any) -> int | float:
        try:
            value: int | float = parse()
        except (ValueError, OverflowError):
            self._refuse(node, f"{node.value[:40]} cannot be read as a number")
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            self._refuse(node, f"{node.value[:40]} is too large for a number")
        return value
