"""Engines of the roles of a run: started when needed, stopped when another step needs their resources.

engines = Engines(config, run_id, processes)
engines.start()                          # those that are not up
engines["teacher"].target()
engines.free_resources_for("train")      # stops engines with a claim if training does not fit next to them
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tapir_ray.cluster.capacity import fits_with_kept, fits_with_servers, kept_student, live_nodes
from tapir_ray.config import Config
from tapir_ray.data.storage import uri_in
from tapir_ray.llm.engine.base import Engine, Setting
from tapir_ray.llm.engine.registry import engine_class

if TYPE_CHECKING:
    from tapir_ray.llm.engine.kept import KeptEngines


class Engines:
    """One engine for each role with an endpoint. A judge that is the same as the teacher shares its engine."""

    def __init__(
        self, config: Config, run_id: str, processes: str | None = None, simulator_url: str | None = None
    ) -> None:
        """Takes the folder for records of engine processes as `processes`; None keeps no records."""
        self._config = config
        self._engines: dict[str, Engine] = {}
        for section, endpoint in config.endpoints.items():
            role = section.partition(".")[0]
            recorded = None if processes is None else uri_in(processes, role)
            setting = Setting(role, endpoint, config, run_id, recorded, simulator_url)
            self._engines[role] = engine_class(endpoint.engine)(setting)
        self._up: dict[str, Engine] = {}
        self._kept: KeptEngines | None = None
        self._processes = processes
        self._placing = threading.Lock()

    def __getitem__(self, role: str) -> Engine:
        return self._engines[role]

    def check(self) -> None:
        """Raises InputError for an engine that cannot be used."""
        # Local engines first: their check is quick and needs no network.
        for engine in sorted(self._engines.values(), key=lambda engine: not engine.spec.local):
            engine.check()

    def start(self) -> None:
        """Starts the engines that are not up. Raises StageError for one that cannot start."""
        with self._placing:
            for role, engine in self._engines.items():
                if role not in self._up:
                    engine.start()
                    self._up[role] = engine

    def stop(self) -> None:
        """Stops the engines that are up."""
        self._stop(list(self._engines))
        self._stop_kept()

    def kept_student(self) -> list[Any] | None:
        """Returns the actors (`KeptEngine`) of the student's kept engines, started if they are not up; else None."""
        if not kept_student(self._config):
            return None
        if self._kept is None:
            from tapir_ray.llm.engine.kept import KeptEngines

            self._kept = KeptEngines(self._config.resources.student, self._processes)
        return self._kept.handles()

    def free_resources_for(self, part: str) -> None:
        """Stops the engines with a claim if `resources.<part>` does not fit next to them on the live nodes.

        Kept engines of the student are stopped last. For other work with `resources.student` they always stop.

        Nodes that an autoscaler may add do not count: they may never come, and Ray would wait for them although the
        engines could make room at once.
        """
        claiming = [role for role, engine in self._up.items() if engine.claims() is not None]
        if claiming and not fits_with_servers(self._config, part, live_nodes()):
            self._stop(claiming)
        if self._kept is not None and (part == "student" or not fits_with_kept(self._config, part, live_nodes())):
            self._stop_kept()

    def worker_options(self) -> dict[str, Any]:
        """Returns Ray options for a worker that sends requests to the engines that are up."""
        return {name: value for engine in self._up.values() for name, value in engine.worker_options().items()}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Context manager that raises StageError in the main thread if an engine fails permanently."""
        with ExitStack() as stack:
            for engine in self._engines.values():
                stack.enter_context(engine.watched())
            yield

    def _stop_kept(self) -> None:
        if self._kept is not None:
            self._kept.stop()
            self._kept = None

    def _stop(self, roles: list[str]) -> None:
        with self._placing:
            for role in roles:
                if role in self._up:
                    self._up.pop(role).stop()
