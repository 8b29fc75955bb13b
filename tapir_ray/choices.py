"""The choices of a multiple-choice question as text.

options = labelled(["red", "blue"])          # [("A", "red"), ("B", "blue")]
shown(options)                               # "A. red\nB. blue"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

Option = tuple[str, str]
"""A label, which is empty for a text that has one of its own, and the text."""
_HAS_LABEL = re.compile(r"\s*\(?[A-Za-z0-9]{1,2}[).:]")


def labelled(value: Any) -> list[Option] | None:
    """The choices in a column: a list of texts, `{text: […], label: […]}`, a list of such pairs, or texts by label.

    None for anything else.
    """
    if isinstance(value, str):
        return [("", value)]
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        texts, labels = value["text"], value.get("label") or []
    elif isinstance(value, dict):
        given = {label: text for label, text in value.items() if text is not None}
        texts, labels = list(given.values()), list(given)
    elif isinstance(value, list) and all(isinstance(one, dict) and "text" in one for one in value):
        texts, labels = [one["text"] for one in value], [one.get("label") for one in value]
    elif isinstance(value, list):
        texts, labels = value, []
    else:
        return None
    if not texts or any(isinstance(text, bool) or not isinstance(text, str | int | float) for text in texts):
        return None
    texts = [str(text) for text in texts]
    if len(labels) != len(texts) or any(label is None for label in labels):
        own = all(_HAS_LABEL.match(text) for text in texts) or len(texts) > len(ascii_uppercase)
        labels = [""] * len(texts) if own else ascii_uppercase
    return [(str(label), text) for label, text in zip(labels, texts, strict=False)]


def shown(options: Sequence[Option]) -> str:
    """A line for each choice."""
    return "\n".join(f"{label}. {text}" if label else text for label, text in options)


def chosen(options: Sequence[Option], index: Any) -> str | None:
    """The line of the choice with a number from 0 on; None if there is none."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
        return None
    return shown([options[index]])
