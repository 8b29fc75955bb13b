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
from ray.util import metrics

from tapir_ray.config import Budget
from tapir_ray.llm.ledger import Ledger
from tapir_ray.llm.usage import Account
from tapir_ray.llm.usage_files import UsageFiles

NAMESPACE = "tapir"
SAVE_S = 1.0


class UsageActor(Ledger):
    """The ledger as an actor: saves itself every second, and tells Ray's metrics what the run has used."""

    def __init__(self, accounts: Mapping[str, Account], budget: Budget, folder: str | None, attempt: int) -> None:
        super().__init__(accounts, budget, None if folder is None else UsageFiles(folder, attempt))
        self._gauges = {
            "requests": metrics.Gauge("tapir_requests", "Requests sent by a run, all attempts.", ("role",)),
            "tokens": metrics.Gauge("tapir_tokens", "Input and output tokens of a run.", ("role",)),
            "cost": metrics.Gauge("tapir_cost_dollars", "US dollars of a run, by the prices of its config.", ("role",)),
        }
        threading.Thread(target=self._save_again_and_again, daemon=True, name="tapir-usage").start()

    def _save_again_and_again(self) -> None:
        while True:
            time.sleep(SAVE_S)
            self._show()
            try:
                self.save()
            except OSError:
                continue  # storage that fails for a moment; what changed is saved the next time

    def _show(self) -> None:
        for role, used in self.snapshot().items():
            tokens = used["input_tokens"] + used["output_tokens"]
            for name, value in (("requests", used["requests"]), ("tokens", tokens), ("cost", used["cost"])):
                self._gauges[name].set(value, {"role": role})

    def close(self) -> dict[str, dict[str, float]]:
        """Save for the last time; returns the snapshot."""
        self.save()
        return self.snapshot()


def start(
    run_id: str, accounts: Mapping[str, Account], budget: Budget, folder: str | None = None, attempt: int = 0
) -> Any:
    """The handle of a new usage actor named `usage-RUN_ID-ATTEMPT`; it ends with the driver or by `ray.kill`.

    `folder` is the run's storage; without one the counts are kept in memory. An actor that dies is started again and
    goes on from what it saved.
    """
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(UsageActor)
    return actor.options(name=f"usage-{run_id}-{attempt}", namespace=NAMESPACE).remote(
        accounts, budget, folder, attempt
    )
