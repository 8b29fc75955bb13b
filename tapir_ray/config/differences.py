"""Differences between two configs, and a sentence about them.

changed = differences(stored, given)        # {"score.max_rows": (400, 200)}
in_words(changed)                           # "score.max_rows: 400 → 200"
"""

from __future__ import annotations

from typing import Any

from tapir_ray.config.config import Config


def differences(stored: Config, given: Config) -> dict[str, tuple[Any, Any]]:
    """Returns (stored value, given value) by key (`a.b`), for keys that differ and change results."""
    found: dict[str, tuple[Any, Any]] = {}

    def walk(path: str, old: Any, new: Any) -> None:
        if isinstance(old, dict) and isinstance(new, dict):
            for key in sorted(old.keys() | new.keys()):
                walk(f"{path}.{key}" if path else key, old.get(key), new.get(key))
        elif old != new:
            found[path] = (old, new)

    walk("", stored.results(), given.results())
    return found


def in_words(changed: dict[str, tuple[Any, Any]]) -> str:
    """Returns the first four differences as `a.b: old → new`, and the number of the others."""
    shown = [f"{key}: {old!r} → {new!r}" for key, (old, new) in list(changed.items())[:4]]
    return "; ".join(shown) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
