"""Console for tables that people read; text from the user's rows is printed unchanged.

console(sys.stdout).print(table)
"""

from __future__ import annotations

from typing import TextIO

from rich.console import Console

WIDTH = 140
"""Width in characters if the output is a file or a pipe."""


def console(file: TextIO) -> Console:
    """Returns a console without markup and emoji, since a task may be named `[red]`, `[/]` or `:bug:`."""
    return Console(file=file, width=None if file.isatty() else WIDTH, highlight=False, markup=False, emoji=False)
