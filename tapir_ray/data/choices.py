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
_PAIR = {"text", "label"}
_HAS_LABEL = re.compile(r"\s*\(?[A-Za-z0-9]{1,2}[).:]")


def labelled(value: Any) -> list[Option] | None:
    """The choices in a column: a list of texts, `{text: […], label: […]}`, a list of such pairs, or texts by label.

    None for anything else.
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
        own = all(_HAS_LABEL.match(text) for text in texts) or len(texts) > len(ascii_uppercase)
        labels = [""] * len(texts) if own else list(ascii_uppercase)
    return [(str(label), text) for label, text in zip(labels, texts, strict=False)]


def _is_word(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def shown(options: Sequence[Option]) -> str:
    """A line for each choice."""
    return "\n".join(f"{label}. {text}" if label else text for label, text in options)


def chosen(options: Sequence[Option], index: Any) -> str | None:
    """The line of the choice with a number from 0 on; None if there is none."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(options):
        return None
    return shown([options[index]])
