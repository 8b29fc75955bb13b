"""Interface of the engines that answer for the teacher, the judge or the student.

    engine = engine_class("vllm")(Setting("teacher", endpoint, config, run_id))
    engine.check()                                   # before anything is spent
    engine.start()                                   # until the model answers
    client = engine.client(engine.target(), meter, slots(engine.target()))      # in a worker
    reply = await client.chat(messages, kind="respond")                         # asks `client.generate`
    engine.stop()

docs/engines.md shows how to add one.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import ray.data

from tapir_ray.config import Config, Endpoint, Replicas, Student
from tapir_ray.config.engines import EngineSpec
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.concurrency import InFlight
from tapir_ray.llm.client.target import Secret, Target
from tapir_ray.run.answer_log import AnswerLog


@dataclass(frozen=True)
class Setting:
    """Role that an engine answers for, and the run that it belongs to."""

    role: str
    endpoint: Endpoint
    config: Config
    run_id: str
    processes: str | None = None
    """Folder (path or URI) for records of the engine's processes, by which the next start ends orphans; None for no
    records."""
    simulator_url: str | None = None


@dataclass(frozen=True)
class StudentWork:
    """Arguments for the answers of a local student to the rows of one table."""

    model: str
    """Folder or URI of the round's checkpoint; the name of the student before its first training."""
    student: Student
    replicas: Replicas
    transform_cpus: float
    random_seed: int
    processes: str | None = None
    keep: Callable[[], AnswerLog] | None = None
    """Function that each worker calls for its log of finished answers, which survive a stop; None for no log."""
    board: Any | None = None
    """Actor of `EngineBoard` with the state of the engines for the progress line."""
    samples: int = 0
    """Number of further answers to each row in `student_samples`. Rows of the holdout get none."""
    temperature: float = 1.0
    """Temperature of the further answers."""
    engines: Sequence[Any] | None = None
    """Actors (`KeptEngine`) that stay between tables, with `resources.student.keep`; None if no engine stays."""


class Engine(ABC):
    """A model of a run. Its object belongs to the driver; `client` and `generate` work in the workers."""

    spec: ClassVar[EngineSpec]

    def __init_subclass__(cls) -> None:
        """Raises TypeError for a class whose spec allows a student, but that has no method `generate`."""
        super().__init_subclass__()
        if cls.spec.local and cls.spec.student and cls.generate is Engine.generate:
            raise TypeError(f"{cls.__name__}: a spec with `local` and `student` needs the method generate")

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def check(self) -> None:  # noqa: B027 (an engine may have nothing to check)
        """Checks for problems before the run starts. Needs no Ray, starts nothing and spends nothing.

        Raises InputError with the key to change.
        """

    def start(self) -> None:  # noqa: B027 (or to start)
        """Starts the model and returns once it answers. Raises StageError if it cannot start."""

    def stop(self) -> None:  # noqa: B027
        """Stops the model and releases its resources. It may be started again."""

    def claims(self) -> Replicas | None:
        """Returns the resources that the engine holds while it is up; None without any."""
        return self.spec.claims(self.setting.config.resources, self.setting.role)

    def url(self) -> str | None:
        """Returns the base URL of a model that is up; None if its client needs no URL."""
        return None

    def key(self) -> Secret | None:
        """Returns the API key for requests; None without one. Raises InputError if its variable is not set."""
        return None

    def scope(self) -> str:
        """Returns the engine's part of a cache key: equal requests of one scope have equal replies."""
        endpoint = self.setting.endpoint
        return json.dumps([endpoint.engine, endpoint.engine_kwargs], sort_keys=True)

    def target(self) -> Target:
        """Returns the destination of the role's requests, for `client`."""
        setting = self.setting
        return Target(setting.role, setting.endpoint, self.url(), self.key(), setting.role, self.scope())

    def worker_options(self) -> dict[str, Any]:
        """Returns Ray options for a worker that sends requests to the model. The model must be up."""
        return {}

    def watched(self) -> AbstractContextManager[None]:
        """Context manager that raises StageError in the main thread if the model fails permanently."""
        return nullcontext()

    @classmethod
    @abstractmethod
    def client(
        cls, target: Target, meter: Meter, in_flight: InFlight, cache: Cache | None = None, folder: str | None = None
    ) -> Client:
        """Returns a client of the model for a worker. `folder` is for records of requests that outlive their worker."""

    @staticmethod
    def generate(rows: ray.data.Dataset, work: StudentWork) -> ray.data.Dataset:
        """Returns the rows with `student_response`, `finish_reason` (`stop` or `length`) and samples: a lazy dataset.

        Needed for an engine with `spec.local` and `spec.student`, which lives as long as the pipeline. A row without
        an answer is failed or filtered, with its reason.
        """
        raise NotImplementedError

    @staticmethod
    def guarded(processes: str, replicas: int, rows_done: Callable[[], int]) -> AbstractContextManager[None]:
        """Context manager for writing the rows of `generate`: raises StageError if engines crash again and again.

        Releases their resources on exit. `processes` is the folder with the records of their processes, `rows_done`
        counts the rows that are written.
        """
        return nullcontext()
