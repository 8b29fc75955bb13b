"""The ledger of a run as a Ray actor.

actor = start(run_id, accounts, Budget(max_cost=5.0), folder="runs/a", attempt=2)     # one per run, without a CPU
ray.get(actor.snapshot.remote())                                                      # usage of all attempts
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import ray

from tapir_ray.cluster.placement import NAMESPACE, with_driver
from tapir_ray.config import Budget
from tapir_ray.data.values import one_line
from tapir_ray.llm.budget.files import UsageFiles
from tapir_ray.llm.budget.ledger import Ledger
from tapir_ray.llm.budget.usage import Account

SAVE_S = 1.0
CLOSE_ATTEMPTS = 5


class UsageActor(Ledger):
    """Ledger that saves its state every SAVE_S seconds."""

    def __init__(self, accounts: Mapping[str, Account], budget: Budget, folder: str | None, attempt: int) -> None:
        super().__init__(accounts, budget, None if folder is None else UsageFiles(folder, attempt))
        self._plain: set[str] = set()
        threading.Thread(target=self._save_again_and_again, daemon=True, name="tapir-usage").start()

    def _save_again_and_again(self) -> None:
        while True:
            time.sleep(SAVE_S)
            with self._lock:  # calls of the actor's own thread change the counts meanwhile
                self._kept()  # a failed write is tried again by the next one

    def close(self) -> tuple[dict[str, dict[str, float]], str | None]:
        """Saves the final state. Returns (snapshot, error): None, or why CLOSE_ATTEMPTS writes failed."""
        for attempt in range(CLOSE_ATTEMPTS):
            try:
                self.save()
                break
            except OSError as error:
                if attempt == CLOSE_ATTEMPTS - 1:
                    return self.snapshot(), one_line(error)[:300]
                time.sleep(SAVE_S)
        return self.snapshot(), None

    def note_plain(self, role: str) -> None:
        """Notes that the endpoint of `role` refuses a `response_format`, as a worker has found."""
        self._plain.add(role)

    def plain(self) -> set[str]:
        """Returns the roles whose endpoint has refused a `response_format` in this attempt."""
        return self._plain


def start(
    run_id: str, accounts: Mapping[str, Account], budget: Budget, folder: str | None = None, attempt: int = 0
) -> Any:
    """Starts an actor named `usage-RUN_ID-ATTEMPT` and returns its handle; it ends with the driver or by `ray.kill`.

    `folder` is the run's storage; without one the counts are kept in memory only. Ray restarts an actor that dies, and
    it continues from the state that it saved.
    """
    # No CPU: it must be placed on a cluster whose CPUs are all taken. Calls may repeat, since reports are numbered.
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(UsageActor)
    return actor.options(name=f"usage-{run_id}-{attempt}", namespace=NAMESPACE, **with_driver()).remote(
        accounts, budget, folder, attempt
    )
