"""What the attempts of a run used, on its storage: RUN/usage/ATTEMPT.json, a ledger's state each.

mine, others = UsageFiles(run.uri, attempt=2).load()
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

from tapir_ray.data.storage import Storage
from tapir_ray.llm.budget.usage import Count

FOLDER = "usage"
LOAD_ATTEMPTS, AGAIN_S = 5, 1.0
FIELDS = {"counts", "unsettled", "reserved", "resolved"}
"""Of every state."""
UNCOUNTED = "is treated as absent: what this attempt spent does not count towards the budget"


class UsageFiles:
    """What each attempt of a run used; `attempt` is the one that writes."""

    def __init__(self, folder: str, attempt: int) -> None:
        self._storage = Storage.at(folder)
        self._mine = f"{attempt:05d}.json"

    def load(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """(this attempt's state, if its actor has died and come back; those of the others)."""
        for attempt in itertools.count(1):
            try:
                names = [name for name in self._storage.children(FOLDER) if name.removesuffix(".json").isdigit()]
                found = {name: self._storage.find_json(f"{FOLDER}/{name}", UNCOUNTED) for name in names}
                states = {name: one for name, one in found.items() if one is not None and self._whole(name, one)}
                return states.pop(self._mine, None), list(states.values())
            except OSError:
                if attempt == LOAD_ATTEMPTS:
                    raise
                time.sleep(AGAIN_S)
        raise AssertionError("the last attempt returns")

    def _whole(self, name: str, state: dict[str, Any]) -> bool:
        if state.keys() >= FIELDS:
            return True
        self._storage.tell_torn(f"{FOLDER}/{name}", UNCOUNTED)
        return False

    def save(self, state: dict[str, Any]) -> None:
        """Put a state in the place of this attempt's last."""
        self._storage.write_json(f"{FOLDER}/{self._mine}", state)


def listed(counts: Mapping[str, Mapping[str, Count]]) -> dict[str, dict[str, dict[str, int]]]:
    """Counts by role and kind, as a state holds them under `counts`."""
    return {role: {kind: count.numbers() for kind, count in kinds.items()} for role, kinds in counts.items()}


def counts_in(state: dict[str, Any]) -> list[tuple[str, Count]]:
    """The (role, count of one kind) of a state."""
    return [
        (role, Count(kind, **numbers)) for role, kinds in state["counts"].items() for kind, numbers in kinds.items()
    ]


def unsettled_in(state: dict[str, Any]) -> list[tuple[str, Count]]:
    """The (role, worst case of the requests that no record came of) of a state."""
    return [(role, Count("unsettled", **numbers)) for role, numbers in state["unsettled"].items()]
