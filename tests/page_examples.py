"""The Python examples of the pages in `docs/`, as modules that a config can name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def example(page: str, number: int, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Installs the `number`-th Python block of a page as the module `name` until the test ends."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    module = ModuleType(name)
    exec(compile(blocks[number], f"docs/{page}", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    return module
