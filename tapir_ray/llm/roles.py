"""Requests to teacher, judge and a student behind an endpoint, as Ray Data stages.

    with Roles(config, run_id, simulator_url, folder=run.uri, attempt=2) as roles:
        roles.check()
        scored = roles.ask(rows, function, schemas.SCORED)     # one output row for each input row
        roles.usage()

Engines that the run starts itself are up while the roles are open. They stop if another step needs their resources
(`free_resources_for`).
"""

from __future__ import annotations

import json
import logging
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any

import pyarrow as pa
import ray
import ray.data

from tapir_ray.cluster.ray_data import small_blocks, unfused
from tapir_ray.config import Config, Endpoint, Price
from tapir_ray.data.storage import uri_in
from tapir_ray.errors import StageError
from tapir_ray.llm.asker import Asker, AskRow
from tapir_ray.llm.budget import actor, usage
from tapir_ray.llm.client.cache_dirs import ReplyFolders
from tapir_ray.llm.client.client import Client, slots
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.engine.engines import Engines
from tapir_ray.llm.engine.health import PROCESSES
from tapir_ray.llm.engine.registry import engine_class

GRACE_S = 30.0
"""Seconds after its timeout in which a request may still be reported."""
MOST_BLOCKS = 16
"""Approximate number of blocks in flight over all workers if there are many rows. Each block occupies a thread of its
worker. Few and larger blocks are needed because a pipeline passes on only about 30 blocks a second."""


class Roles:
    """Endpoints of a run with their limits, budget and usage. A context manager."""

    def __init__(
        self,
        config: Config,
        run_id: str,
        simulator_url: str | None = None,
        folder: str | None = None,
        attempt: int = 0,
    ) -> None:
        """Takes the run's storage as `folder`: it holds usage, cached replies (unless `cache.dir` is set) and batches.

        Without a `folder` nothing is stored. Raises InputError for an engine that cannot be made, such as a simulator
        without a `simulator_url`.
        """
        self._config = config
        self._run_id = run_id
        self._folder, self._attempt = folder, attempt
        self.replies = ReplyFolders(config.cache, folder)
        self._endpoints = _endpoints(config)
        self._actor: Any | None = None
        processes = None if folder is None else uri_in(folder, PROCESSES)
        self._engines = Engines(config, run_id, processes, simulator_url)
        self._last_usage: dict[str, dict[str, float]] = {}
        self._told: set[str] = set()

    def __enter__(self) -> Roles:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Starts the usage actor with the usage of earlier attempts. Engines start with the first request."""
        self._actor = actor.start(
            self._run_id, accounts_of(self._config), self._config.budget, self._folder, self._attempt
        )

    def close(self) -> None:
        """Stops the engines and the usage actor. `usage` still returns the last counts."""
        self._engines.stop()
        if self._actor is not None:
            self._last_usage, problem = ray.get(self._actor.close.remote())
            ray.kill(self._actor)
            self._actor = None
            if problem is not None:
                logging.getLogger(__name__).warning(
                    "the usage of this attempt could not be written to the run's storage: %s; the next attempt does "
                    "not count its last requests towards the budget",
                    problem,
                )

    def free_resources_for(self, part: str) -> None:
        """Stops the run's own engines if `resources.<part>` does not fit next to them.

        The next request starts them again. No stage may be sending requests when this is called.
        """
        self._engines.free_resources_for(part)

    def kept_student(self) -> list[Any] | None:
        """Returns the actors of the student's kept engines, started if they are not up; None if none are kept."""
        return self._engines.kept_student()

    def watched(self) -> AbstractContextManager[None]:
        """Context manager that raises StageError in the main thread if an engine fails permanently."""
        return self._engines.watched()

    def check(self) -> None:
        """Checks API keys, endpoints and their models, and the folders of local models. Needs no Ray, spends nothing.

        Raises InputError that names the config key and what to change.
        """
        self._engines.check()

    @property
    def batch_s(self) -> float:
        """Seconds that a stage may be without a finished row because it waits for batches; 0 without a batch engine."""
        return max((endpoint.spec.batch_s for endpoint in self._endpoints.values()), default=0.0)

    def ask(self, rows: ray.data.Dataset, function: AskRow, schema: pa.Schema) -> ray.data.Dataset:
        """Returns `function` of every row as rows of `schema`: a lazy dataset in no fixed order.

        Workers process several small blocks at once, so that no block waits for another and the next stage starts
        early. A row whose function raises becomes a failed row with the exception as its reason. At most
        `limits.in_flight` requests of a group run at once in this stage, split over `resources.request_workers`.

        Raises StageError for an engine that does not start.
        """
        if self._actor is None:
            raise RuntimeError("open the roles first")
        self._engines.start()
        resources = self._config.resources
        workers = resources.request_workers
        targets = self._targets()
        in_flight = max(1, max(map(_in_flight, targets)) // workers)
        block_rows = block_rows_of(in_flight, workers)
        # Twice the rows that can be in flight: when a block ends, the next one is already in the worker.
        blocks_at_once = max(2, 2 * in_flight // block_rows)
        small = small_blocks(rows, block_rows, resources.transform_cpus)
        if self.batch_s:
            # Ray Data would end the pipeline as stalled while a batch takes its hours.
            small.context.execution_no_progress_timeout_s = self.batch_s
        return small.map_batches(
            Asker,
            fn_constructor_kwargs={
                "function": function,
                "schema": schema,
                "targets": targets,
                "usage_actor": self._actor,
                "leased": self._leased(),
                "workers": workers,
                "cache_dir": self.replies.cache,
                "batch_dir": self.replies.batches,
            },
            batch_size=None,
            batch_format="pyarrow",
            # Fused with the read, a worker would process the small blocks of a file one after the other.
            num_cpus=unfused(resources.transform_cpus),
            compute=ray.data.ActorPoolStrategy(
                size=workers,
                max_tasks_in_flight_per_actor=blocks_at_once,
                max_concurrent_calls_per_actor=blocks_at_once,
                enable_true_multi_threading=True,
            ),
            **self._engines.worker_options(),
        )

    def clients(self, meter_class: type[usage.Meter]) -> tuple[dict[str, Client], usage.Meter]:
        """Returns (clients by role, their meter) under the run's limits and budget, for requests from the driver.

        They belong to one event loop. The caller flushes the meter at the end.
        """
        self._engines.start()
        meter = meter_class(self._actor, self._leased())
        targets = self._targets()
        groups = {target.group: slots(target, 1) for target in targets}
        clients = {
            target.role: engine_class(target.endpoint.engine).client(target, meter, groups[target.group])
            for target in targets
        }
        return clients, meter

    def usage(self) -> dict[str, dict[str, float]]:
        """Returns the usage of all attempts of the run by role, with the keys of `ledger.Ledger.snapshot`."""
        return self._last_usage if self._actor is None else ray.get(self._actor.snapshot.remote())

    def usage_by_kind(self) -> dict[str, dict[str, dict[str, float]]]:
        """Returns the usage by role and kind of request (see `ledger.Ledger.by_kind`). The roles must be open."""
        if self._actor is None:
            raise RuntimeError("open the roles first")
        return ray.get(self._actor.by_kind.remote())

    def found_plain(self) -> list[str]:
        """Returns the roles whose endpoint has refused a `response_format` since the last call, each of them once.

        Their later requests are sent without one.
        """
        new = sorted(self._plain() - self._told)
        self._told.update(new)
        return new

    def drained(self) -> bool:
        """Whether the budget is used up and no request is in flight.

        Raises StageError if requests are stopped because the usage cannot be written to the run's storage.
        """
        if self._actor is None:
            return False
        problem = ray.get(self._actor.problem.remote())
        if problem is not None:
            raise StageError(problem)
        return ray.get(self._actor.drained.remote())

    def _group(self, role: str) -> str:
        return _group(self._config, role)

    def _leased(self) -> frozenset[str]:
        budget = self._config.budget
        if budget.max_cost is not None or budget.max_tokens is not None:
            return frozenset(self._endpoints)
        limits = {role: endpoint.limits for role, endpoint in self._endpoints.items()}
        return frozenset(role for role, limit in limits.items() if limit.requests_per_minute or limit.tokens_per_minute)

    def _plain(self) -> set[str]:
        return set() if self._actor is None else ray.get(self._actor.plain.remote())

    def _targets(self) -> list[Target]:
        plain = self._plain()
        return [replace(self._target(role), plain=role in plain) for role in self._endpoints]

    def _target(self, role: str) -> Target:
        endpoint, target = self._endpoints[role], self._engines[self._group(role)].target()
        return replace(target, role=role, endpoint=endpoint, scope=scope_of(target.scope, endpoint))


def scope_of(place: str, endpoint: Endpoint) -> str:
    """Returns the part of a cache key that is not in the request: the engine's scope and the options for replies."""
    reading = {}
    for key in ("reasoning", "thinking_marks", "finish_reasons"):
        value = getattr(endpoint, key)
        # Options at their default stay out, so that a new option does not make the caches of older runs useless.
        if value != Endpoint.model_fields[key].get_default(call_default_factory=True):
            reading[key] = value
    return json.dumps([place, reading], sort_keys=True) if reading else place


def block_rows_of(in_flight: int, workers: int) -> int:
    """Returns the rows of a block for workers with `in_flight` requests each.

    Blocks are small, so that none waits long for its slowest row: at most a quarter of the requests of a worker.

    block_rows_of(64, 2)  # 16
    """
    return max(1, min(in_flight // 4, max(32, in_flight * workers // MOST_BLOCKS)))


def accounts_of(config: Config) -> dict[str, usage.Account]:
    """Returns the ledger's account for each role of a config."""
    return {
        role: usage.Account(
            _group(config, role), endpoint.limits, endpoint.known_price or Price(), _longest(endpoint) + GRACE_S
        )
        for role, endpoint in _endpoints(config).items()
    }


def _group(config: Config, role: str) -> str:
    return "teacher" if role == "judge" and config.judge.same_as == "teacher" else role


def _in_flight(target: Target) -> int:
    endpoint = target.endpoint
    return endpoint.batch.size if endpoint.spec.batch_s else endpoint.limits.in_flight


def _longest(endpoint: Endpoint) -> float:
    """Returns the seconds after which no reply to a request can come."""
    return endpoint.spec.batch_s or endpoint.timeout_s


def _endpoints(config: Config) -> dict[str, Endpoint]:
    endpoints = {"teacher": config.teacher} if config.asks_teacher else {}
    if config.judges:
        endpoints["judge"] = config.judge_endpoint
    student = config.student
    if student.endpoint is not None:
        endpoints["student"] = student.endpoint.model_copy(update={"sampling": student.sampling})
    return endpoints
