"""Rule by which one key leaves another without effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from tapir_ray.config.config import Config


@dataclass(frozen=True)
class Silence:
    """Rule: `keys` have no effect if `when` is true, which the key or section `by` decides.

    The message is "KEY has no effect " and `because`.
    """

    keys: tuple[str, ...]
    by: str
    when: Callable[[Config], bool]
    because: str


def value_of(config: Config, key: str) -> Any:
    """Returns the value of a key; None below a section that is null."""
    return reduce(lambda section, name: None if section is None else getattr(section, name), key.split("."), config)
