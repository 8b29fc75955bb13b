"""The console that tables for a person are printed on: text of the user's rows stays as it is.

console(sys.stdout).print(table)
"""

from __future__ import annotations

from typing import TextIO

from rich.console import Console

WIDTH = 140
"""Columns of a table that goes into a file."""


def console(file: TextIO) -> Console:
    """A console that takes no text for markup or an emoji: a task may be named `[red]`, `[/]` or `:bug:`."""
    return Console(file=file, width=None if file.isatty() else WIDTH, highlight=False, markup=False, emoji=False)
