"""Usage of the attempts of a run on its storage: one file RUN/usage/ATTEMPT.json with the state of its ledger.

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
"""Keys that every state has."""
UNCOUNTED = "is treated as absent: the spending of this attempt does not count towards the budget"


class UsageFiles:
    """Usage files of a run; `attempt` is the number of the attempt that writes."""

    def __init__(self, folder: str, attempt: int) -> None:
        self._storage = Storage.at(folder)
        self._mine = f"{attempt:05d}.json"

    def load(self) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        """Returns (state of this attempt, states of the others). The first is None unless its actor was restarted.

        Raises OSError if storage fails LOAD_ATTEMPTS times.
        """
        for attempt in itertools.count(1):
            try:
                names = [name for name in self._storage.children(FOLDER) if name.removesuffix(".json").isdigit()]
                found = {name: self._storage.find_json(f"{FOLDER}/{name}", UNCOUNTED) for name in names}
                states = {name: one for name, one in found.items() if one is not None and self._whole(name, one)}
                return states.pop(self._mine, None), list(states.values())
            except OSError:
                # Raised in the end: without the earlier usage, the budget could be exceeded.
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
        """Replaces the state of this attempt. Raises OSError if storage fails."""
        self._storage.write_json(f"{FOLDER}/{self._mine}", state)


def listed(counts: Mapping[str, Mapping[str, Count]]) -> dict[str, dict[str, dict[str, int]]]:
    """Returns counts by role and kind as JSON values, the content of `counts` in a state."""
    return {role: {kind: count.numbers() for kind, count in kinds.items()} for role, kinds in counts.items()}


def counts_in(state: dict[str, Any]) -> list[tuple[str, Count]]:
    """Returns the pairs (role, count of one kind) of a state."""
    return [
        (role, Count(kind, **numbers)) for role, kinds in state["counts"].items() for kind, numbers in kinds.items()
    ]


def unsettled_in(state: dict[str, Any]) -> list[tuple[str, Count]]:
    """Returns the pairs (role, worst case of its requests without a known usage) of a state."""
    return [(role, Count("unsettled", **numbers)) for role, numbers in state["unsettled"].items()]
