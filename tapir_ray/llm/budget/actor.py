"""The ledger of a run as an actor.

actor = start(run_id, accounts, Budget(max_cost=5.0), folder="runs/a", attempt=2)     # one a run, no CPU of its own
ray.get(actor.snapshot.remote())                                                      # of all attempts of the run
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import ray

from tapir_ray.cluster.placement import with_driver
from tapir_ray.config import Budget
from tapir_ray.data.values import one_line
from tapir_ray.llm.budget.files import UsageFiles
from tapir_ray.llm.budget.ledger import Ledger
from tapir_ray.llm.budget.usage import Account

NAMESPACE = "tapir"
SAVE_S = 1.0
CLOSE_ATTEMPTS = 5


class UsageActor(Ledger):
    """The ledger as an actor: saves itself every second."""

    def __init__(self, accounts: Mapping[str, Account], budget: Budget, folder: str | None, attempt: int) -> None:
        super().__init__(accounts, budget, None if folder is None else UsageFiles(folder, attempt))
        self._plain: set[str] = set()
        threading.Thread(target=self._save_again_and_again, daemon=True, name="tapir-usage").start()

    def _save_again_and_again(self) -> None:
        while True:
            time.sleep(SAVE_S)
            with self._lock:
                self._kept()  # if storage fails for a moment, what changed is saved the next time

    def close(self) -> tuple[dict[str, dict[str, float]], str | None]:
        """Save for the last time; returns the snapshot, and why it could not be saved after several attempts."""
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
        """A worker found that the endpoint of `role` refuses a `response_format`."""
        self._plain.add(role)

    def plain(self) -> set[str]:
        """The roles whose endpoint refuses a `response_format`, as far as this attempt of the run has found."""
        return self._plain


def start(
    run_id: str, accounts: Mapping[str, Account], budget: Budget, folder: str | None = None, attempt: int = 0
) -> Any:
    """The handle of a new usage actor named `usage-RUN_ID-ATTEMPT`; it ends with the driver or by `ray.kill`.

    `folder` is the run's storage; without one the counts are kept in memory. An actor that dies is started again and
    goes on from what it saved.
    """
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(UsageActor)
    return actor.options(name=f"usage-{run_id}-{attempt}", namespace=NAMESPACE, **with_driver()).remote(
        accounts, budget, folder, attempt
    )
