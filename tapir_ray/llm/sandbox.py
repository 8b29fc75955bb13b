"""The Jinja environment of prompts: a prompt file is data, and may come from somebody else than who runs it.

It can neither reach Python's internals (and with them files, keys and other processes) nor change the values that it is
given, and it reads files of its own folder alone.
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
    """Templates of some folders. A link that leads out of its folder is refused: its target would be sent away."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        text, filename, current = super().get_source(environment, template)
        if not any(Path(filename).resolve().is_relative_to(Path(folder).resolve()) for folder in self.searchpath):
            raise jinja2.TemplateRuntimeError(f"{template} is a link out of the folder of prompts")
        return text, filename, current


def environment(folders: Sequence[Path]) -> jinja2.Environment:
    """Renders templates of `folders`, of which the first that has a name wins.

    Raises jinja2.exceptions.SecurityError at what a template may not do, and UndefinedError for an unknown value.
    """
    return ImmutableSandboxedEnvironment(
        loader=OwnFiles(list(folders)), undefined=jinja2.StrictUndefined, autoescape=False
    )


def forbidden(jinja: jinja2.Environment, name: str) -> tuple[str, int, str] | None:
    """(file, line, what) of the first thing in a template, or one that it includes, that the sandbox would stop.

    Looks into branches that a trial rendering does not reach. Raises jinja2.TemplateError as loading does.
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
            # A name for `attr`, `map(attribute=…)` or an index, or a field of a format.
            yield node.lineno, node.value
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in CHANGING:
            yield node.lineno, f"{node.node.attr}()"
