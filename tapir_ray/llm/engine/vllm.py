"""Engine for local models with vLLM: a server for the teacher or the judge, a pipeline stage for the student."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray.data

from tapir_ray.config.engines import VLLM
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.concurrency import InFlight
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.engine.base import Engine, Setting, StudentWork
from tapir_ray.llm.engine.health import stopped_if_dying
from tapir_ray.llm.engine.placement_groups import left_overs_removed
from tapir_ray.llm.serve import application, proxies


class Vllm(Engine):
    """A local model: an application of Ray Serve, or for the student the engines of `vllm_stage`."""

    spec = VLLM

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._up: dict[str, application.Application] = {}
        """The application by its role; empty while it is down."""

    def check(self) -> None:
        """Raises InputError for a local model folder that is incomplete."""
        application.check_model(self.setting.endpoint.model, f"{self.setting.role}.model")

    def start(self) -> None:
        setting, claim = self.setting, self.claims()
        assert claim is not None, "a local engine claims resources"
        self._up[setting.role] = application.start(
            setting.endpoint,
            claim,
            f"{setting.run_id}-{setting.role}",
            setting.processes,
            setting.config.resources.no_progress_timeout_s,
        )

    def stop(self) -> None:
        # Removed first, else `watched` could report it as failed.
        application.stop(self._up.pop(self.setting.role))

    def url(self) -> str:
        return self._up[self.setting.role].url

    def worker_options(self) -> dict[str, Any]:
        """Returns Ray options that place a worker on a node with a proxy of Ray Serve."""
        return proxies.worker_options(self._up)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Context manager that raises StageError in the main thread if the server fails, or no node can reach it."""
        with application.stopped_if_dead(self._up), proxies.stopped_if_stranded():
            yield

    @classmethod
    def client(
        cls, target: Target, meter: Meter, in_flight: InFlight, cache: Cache | None = None, folder: str | None = None
    ) -> Client:
        return OpenAIClient(target, meter, in_flight, cache)

    @staticmethod
    def generate(rows: ray.data.Dataset, work: StudentWork) -> ray.data.Dataset:
        # Each imports what the other does without.
        if work.engines is not None:
            from tapir_ray.llm.engine import kept_stage

            return kept_stage.generate(rows, work)
        from tapir_ray.llm.engine import vllm_stage

        return vllm_stage.generate(rows, work)

    @staticmethod
    @contextmanager
    def guarded(processes: str, replicas: int, rows_done: Callable[[], int]) -> Iterator[None]:
        with left_overs_removed(), stopped_if_dying(processes, replicas, rows_done):
            yield
