"""Verifier of the syntax of Python code. It finds broken code; whether other code is right it leaves to the judge.

Code is parsed with `ast` and never run.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any

from tapir_ray.data.schemas import text_of
from tapir_ray.transforms.verifiers import WRONG

_BLOCK = re.compile(r"^([ \t]*)```[ \t]*(?:python3?|py)[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.M | re.S | re.I)
_OTHER_SYNTAX = re.compile(r"^\s*(?:>>>|[%!]\s*\w|In \[\d)", re.MULTILINE)
"""Lines of a console or of a notebook."""
_OLD = re.compile(r"python\s*2|syntax\s*error", re.IGNORECASE)
"""Requests that may be answered with code that Python 3 cannot parse."""


def python_syntax(row: Mapping[str, Any], answer: str) -> float | None:
    """Returns 1 if a fenced Python block of the answer cannot be parsed, else None.

    Blocks of a console or notebook are not graded, nor are requests for Python 2 or about a syntax error.
    """
    if _OLD.search(text_of(row["messages"])):
        return None
    blocks = [textwrap.dedent(code) for _, code in _BLOCK.findall(answer)]
    return WRONG if any(is_broken(code) for code in blocks if not _OTHER_SYNTAX.search(code)) else None


def is_broken(code: str) -> bool:
    """Returns True if a text is certainly no Python 3 code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError):
        return True
    except (RecursionError, MemoryError):
        # Deeply nested code is beyond this parser, and may be right.
        return False
    return False
