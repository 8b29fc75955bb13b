"""The engines of a run's roles: up, or making room for something else.

engines = Engines(config, run_id, processes)
engines.start()                          # what is not up
engines["teacher"].target()
engines.free_resources_for("train")      # those with a claim go down if training has no place next to them
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tapir_ray.cluster.capacity import fits_with_servers, live_nodes
from tapir_ray.config import Config
from tapir_ray.data.storage import uri_in
from tapir_ray.llm.engine.base import Engine, Setting
from tapir_ray.llm.engine.registry import engine_class


class Engines:
    """One engine for each role that is asked; a judge that is the same as the teacher has none of its own."""

    def __init__(
        self, config: Config, run_id: str, processes: str | None = None, simulator_url: str | None = None
    ) -> None:
        """`processes` is the folder in which processes of engines are recorded, by role; None for none."""
        self._config = config
        self._engines: dict[str, Engine] = {}
        for section, endpoint in config.endpoints.items():
            role = section.partition(".")[0]
            recorded = None if processes is None else uri_in(processes, role)
            setting = Setting(role, endpoint, config, run_id, recorded, simulator_url)
            self._engines[role] = engine_class(endpoint.engine)(setting)
        self._up: dict[str, Engine] = {}
        self._placing = threading.Lock()

    def __getitem__(self, role: str) -> Engine:
        return self._engines[role]

    def check(self) -> None:
        """Raises InputError for an engine that cannot be used; those that need no network are looked at first."""
        for engine in sorted(self._engines.values(), key=lambda engine: not engine.spec.local):
            engine.check()

    def start(self) -> None:
        """Start what is not up. Raises StageError."""
        with self._placing:
            for role, engine in self._engines.items():
                if role not in self._up:
                    engine.start()
                    self._up[role] = engine

    def stop(self) -> None:
        """End what is up."""
        self._stop(list(self._engines))

    def free_resources_for(self, part: str) -> None:
        """End the engines with a claim if `resources.<part>` has no place next to them on the nodes that are up.

        Those that an autoscaler may add may never come, and Ray would wait for them while there is a place to be had.
        """
        claiming = [role for role, engine in self._up.items() if engine.claims() is not None]
        if claiming and not fits_with_servers(self._config, part, live_nodes()):
            self._stop(claiming)

    def worker_options(self) -> dict[str, Any]:
        """Ray options of a worker that must reach those that are up."""
        return {name: value for engine in self._up.values() for name, value in engine.worker_options().items()}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raises StageError in the main thread if one has failed for good."""
        with ExitStack() as stack:
            for engine in self._engines.values():
                stack.enter_context(engine.watched())
            yield

    def _stop(self, roles: list[str]) -> None:
        with self._placing:
            for role in roles:
                if role in self._up:
                    self._up.pop(role).stop()
