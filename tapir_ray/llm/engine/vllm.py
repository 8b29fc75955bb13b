"""A model that the run holds with vLLM: a teacher or judge behind a server, a student inside its pipeline."""

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
    """One application of Ray Serve while it is up; the student's engines are those of `vllm_stage`."""

    spec = VLLM

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._up: dict[str, application.Application] = {}
        """By role: one, or none."""

    def check(self) -> None:
        """A local model folder is whole. Raises InputError."""
        application.check_model(self.setting.endpoint.model, f"{self.setting.role}.model")

    def start(self) -> None:
        setting, claim = self.setting, self.claims()
        assert claim is not None, "the spec says that this engine is local"
        self._up[setting.role] = application.start(
            setting.endpoint,
            claim,
            f"{setting.run_id}-{setting.role}",
            setting.processes,
            setting.config.resources.no_progress_timeout_s,
        )

    def stop(self) -> None:
        # Taken out first: `watched` must not mistake it for one that failed.
        application.stop(self._up.pop(self.setting.role))

    def url(self) -> str:
        return self._up[self.setting.role].url

    def worker_options(self) -> dict[str, Any]:
        """Ray options of a worker on a node where Ray Serve listens."""
        return proxies.beside(self._up)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raises StageError in the main thread if the server has failed for good, or can be asked from nowhere."""
        with application.stopped_if_dead(self._up), proxies.stopped_if_stranded():
            yield

    @classmethod
    def client(
        cls, target: Target, meter: Meter, in_flight: InFlight, cache: Cache | None = None, folder: str | None = None
    ) -> Client:
        return OpenAIClient(target, meter, in_flight, cache)

    @staticmethod
    def generate(rows: ray.data.Dataset, work: StudentWork) -> ray.data.Dataset:
        from tapir_ray.llm.engine import vllm_stage

        return vllm_stage.generate(rows, **vars(work))

    @staticmethod
    @contextmanager
    def guarded(processes: str, replicas: int, rows_done: Callable[[], int]) -> Iterator[None]:
        with left_overs_removed(), stopped_if_dying(processes, replicas, rows_done):
            yield
