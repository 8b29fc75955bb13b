"""Writes the choices of a multiple-choice question as text.

options = labelled(["red", "blue"])          # [("A", "red"), ("B", "blue")]
shown(options)                               # "A. red\\nB. blue"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

Option = tuple[str, str]
"""(label, text); the label is empty if the text begins with its own ("a) red")."""
_PAIR = {"text", "label"}
_HAS_LABEL = re.compile(r"\s*\(?[A-Za-z0-9]{1,2}[).:]")


def labelled(value: Any) -> list[Option] | None:
    """The choices in a column, or None if it has none.

    A column holds a text, a list of texts, `{text: […], label: […]}`, a list of such pairs, or texts by label.
    """
    if isinstance(value, str):
        return [("", value)]
    labels: list[Any] = []
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        texts, labels = value["text"], value.get("label") or []
    elif isinstance(value, dict):
        given = {label: text for label, text in value.items() if text is not None}
        texts, labels = list(given.values()), list(given)
    elif isinstance(value, list) and all(isinstance(one, dict) and set(one) <= _PAIR for one in value):
        texts = [one.get("text") for one in value]
        labels = [one["label"] for one in value if one.get("label") is not None]
    elif isinstance(value, list):
        texts = value
    else:
        return None
    if isinstance(value, dict) and "text" in value and not set(value) <= _PAIR:
        return None
    if not texts or not all(map(_is_word, texts)) or not isinstance(labels, list) or not all(map(_is_word, labels)):
        return None
    if labels and len(labels) != len(texts):
        return None
    texts = [str(text) for text in texts]
    if not labels:
        # More than 26 choices run out of letters and get no label.
        own = all(_HAS_LABEL.match(text) for text in texts) or len(texts) > len(ascii_uppercase)
        labels = [""] * len(texts) if own else list(ascii_uppercase)
    return [(str(label), text) for label, text in zip(labels, texts, strict=False)]


def _is_word(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def shown(options: Sequence[Option]) -> str:
    """The choices, one a line."""
    return "\n".join(f"{label}. {text}" if label else text for label, text in options)


def chosen(options: Sequence[Option], index: Any) -> str | None:
    """The line of the choice at `index`, counted from 0; None if the index is no choice's."""
    # True and False are ints in Python, but no choice of a question.
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
        return None
    return shown([options[index]])
