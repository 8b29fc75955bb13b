"""The models that a run serves itself: those of the roles whose engine is `vllm`, up or making room for something else.

served = ModelServers(config, run_id, processes)
served.start()                # what is not up
served.url("teacher")
served.free_resources_for("train")     # down, if training has no place beside them
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tapir_ray.cluster.capacity import fits_with_servers, live_nodes
from tapir_ray.config import Config
from tapir_ray.data.storage import uri_in
from tapir_ray.llm.serve import application as serve
from tapir_ray.llm.serve import proxies


class ModelServers:
    """One application for each such role; a judge that is the same as the teacher has none of its own."""

    def __init__(self, config: Config, run_id: str, processes: str | None) -> None:
        """`processes` is the folder in which the processes of the engines are recorded, by role; None for none."""
        self._config, self._run_id, self._processes = config, run_id, processes
        self._endpoints = {role: one for role, one in config.endpoints.items() if one.engine == "vllm"}
        self._applications: dict[str, serve.Application] = {}
        self._placing = threading.Lock()

    def check(self) -> None:
        """Raises InputError where a local model folder cannot be served."""
        for role, endpoint in self._endpoints.items():
            serve.check_model(endpoint.model, f"{role}.model")

    def start(self) -> None:
        """Start what is not up. Raises StageError."""
        with self._placing:
            for role, endpoint in self._endpoints.items():
                if role not in self._applications:
                    claim = getattr(self._config.resources, role)
                    name = f"{self._run_id}-{role}"
                    processes = None if self._processes is None else uri_in(self._processes, role)
                    patience_s = self._config.resources.no_progress_timeout_s
                    self._applications[role] = serve.start(endpoint, claim, name, processes, patience_s)

    def stop(self) -> None:
        """End what is up."""
        with self._placing:
            while self._applications:
                serve.stop(self._applications.popitem()[1])

    def free_resources_for(self, part: str) -> None:
        """End all if `resources.<part>` has no place beside them on the nodes that are up.

        Those that an autoscaler may add may never come, and Ray would wait for them while there is a place to be had.
        """
        if self._applications and not fits_with_servers(self._config, part, live_nodes()):
            self.stop()

    def url(self, role: str) -> str:
        """The base URL of a role that is up."""
        return self._applications[role].url

    def beside(self) -> dict[str, Any]:
        """Ray options of a worker that must reach them."""
        return proxies.beside(self._applications)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raises StageError in the main thread where one has failed for good, or cannot be asked from anywhere."""
        if not self._endpoints:
            yield
            return
        with serve.stopped_if_dead(self._applications), proxies.stopped_if_stranded():
            yield
