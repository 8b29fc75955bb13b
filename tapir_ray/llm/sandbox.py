"""Jinja sandbox for prompts: a prompt file is data that may have been written by somebody else.

A prompt can neither reach Python's internals (and through them files, keys and processes) nor change its variables. It
can include files of its own folder only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHANGING = {
    "add", "append", "clear", "difference_update", "discard", "extend", "insert", "intersection_update", "pop",
    "popitem", "remove", "reverse", "rotate", "setdefault", "sort", "symmetric_difference_update", "update",
}  # fmt: skip
"""Methods that change a list, dict or set."""


class OwnFiles(jinja2.FileSystemLoader):
    """Loader of templates that refuses a symbolic link out of their folders: its target would be sent to a provider."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        text, filename, current = super().get_source(environment, template)
        if not any(Path(filename).resolve().is_relative_to(Path(folder).resolve()) for folder in self.searchpath):
            raise jinja2.TemplateRuntimeError(f"{template} is a link to a file outside the folder of prompts")
        return text, filename, current


def environment(folders: Sequence[Path]) -> jinja2.Environment:
    """Returns an environment with the templates of `folders`; of two with one name that of the earlier folder is used.

    Rendering raises jinja2.exceptions.SecurityError for a forbidden access, UndefinedError for an unknown variable.
    """
    return ImmutableSandboxedEnvironment(
        loader=OwnFiles(list(folders)), undefined=jinja2.StrictUndefined, autoescape=False
    )


def forbidden(jinja: jinja2.Environment, name: str) -> tuple[str, int, str] | None:
    """Returns (file, line, name) of the first forbidden access in a template or its includes; None without one.

    Covers branches that a trial rendering does not reach. Raises jinja2.TemplateError for a template that cannot load.
    """
    seen, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        seen.add(current)
        assert jinja.loader is not None
        text, file, _ = jinja.loader.get_source(jinja, current)
        tree = jinja.parse(text, current, file)
        for line, what in _forbidden(tree):
            return str(file), line, what
        waiting += [other for other in jinja2.meta.find_referenced_templates(tree) if other and other not in seen]
    return None


def _forbidden(tree: nodes.Template) -> Iterator[tuple[int, str]]:
    for node in tree.find_all((nodes.Getattr, nodes.Const, nodes.Call)):
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            yield node.lineno, node.attr
        elif isinstance(node, nodes.Const) and isinstance(node.value, str) and "__" in node.value:
            # The filters `attr` and `map(attribute=…)`, an index and a format string take names as texts.
            yield node.lineno, node.value
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in CHANGING:
            yield node.lineno, f"{node.node.attr}()"
