"""What differs between two configs.

changed = differences(stored, given)        # {"score.max_rows": (400, 200)}
in_words(changed)                           # "score.max_rows: 400 → 200"
"""

from __future__ import annotations

from typing import Any

from tapir_ray.config.config import Config


def differences(stored: Config, given: Config) -> dict[str, tuple[Any, Any]]:
    """By key (`a.b`), the stored and the given value of every key that differs and changes results."""
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
    """The first of the differences, as `a.b: old → new`."""
    shown = [f"{key}: {old!r} → {new!r}" for key, (old, new) in list(changed.items())[:4]]
    return "; ".join(shown) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
