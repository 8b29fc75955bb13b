"""The interface of an engine: what answers for the teacher, the judge or the student.

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
from collections.abc import Callable
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
    """The role that an engine answers for, and its run."""

    role: str
    endpoint: Endpoint
    config: Config
    run_id: str
    processes: str | None = None
    """Folder (path or URI) in which the engine's processes are recorded, to be ended by the next start; None for
    none."""
    simulator_url: str | None = None


@dataclass(frozen=True)
class StudentWork:
    """How a student that the run holds answers the rows of one table."""

    model: str
    """Folder or URI of the round's checkpoint, or the name of the student that is not trained yet."""
    student: Student
    replicas: Replicas
    transform_cpus: float
    random_seed: int
    processes: str | None = None
    keep: Callable[[], AnswerLog] | None = None
    """Called by each worker for the log of answers that a stop does not lose."""
    board: Any | None = None
    """Actor of `EngineBoard`, which shows in the progress line what engines do."""
    samples: int = 0
    """Further answers to each row, sampled at `temperature`, in `student_samples`; rows of the holdout have none."""
    temperature: float = 1.0


class Engine(ABC):
    """One model of a run, as its driver holds it; `client` and `generate` work in the workers."""

    spec: ClassVar[EngineSpec]

    def __init_subclass__(cls) -> None:
        """Raises TypeError for a class that can hold a student and cannot generate its answers."""
        super().__init_subclass__()
        if cls.spec.local and cls.spec.student and cls.generate is Engine.generate:
            raise TypeError(f"{cls.__name__}: a spec with `local` and `student` needs the method generate")

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def check(self) -> None:  # noqa: B027 (an engine may have nothing to look for)
        """Looks for what would fail later; needs no Ray, starts and spends nothing.

        Raises InputError with the key to change.
        """

    def start(self) -> None:  # noqa: B027 (or to start)
        """Brings the model up and returns once it answers. Raises StageError."""

    def stop(self) -> None:  # noqa: B027
        """Takes the model down: what it claims is free afterwards. It may be started again."""

    def claims(self) -> Replicas | None:
        """Returns the resources that the engine holds while it is up; None for none."""
        return self.spec.claims(self.setting.config.resources, self.setting.role)

    def url(self) -> str | None:
        """Returns the base URL of a model that is up; None if its client needs none."""
        return None

    def key(self) -> Secret | None:
        """Returns the key that requests carry. Raises InputError for one that is not there."""
        return None

    def scope(self) -> str:
        """Returns all that decides a reply except its request: replies of the same scope are found in the cache."""
        endpoint = self.setting.endpoint
        return json.dumps([endpoint.engine, endpoint.engine_kwargs], sort_keys=True)

    def target(self) -> Target:
        """Returns where the role's requests go, for `client`."""
        setting = self.setting
        return Target(setting.role, setting.endpoint, self.url(), self.key(), setting.role, self.scope())

    def worker_options(self) -> dict[str, Any]:
        """Returns Ray options of a worker that must reach the model, which is up."""
        return {}

    def watched(self) -> AbstractContextManager[None]:
        """Returns a context that raises StageError in the main thread if the model has failed for good."""
        return nullcontext()

    @classmethod
    @abstractmethod
    def client(
        cls, target: Target, meter: Meter, in_flight: InFlight, cache: Cache | None = None, folder: str | None = None
    ) -> Client:
        """Returns what asks the model in a worker; `folder` keeps records of requests that outlive their worker."""

    @staticmethod
    def generate(rows: ray.data.Dataset, work: StudentWork) -> ray.data.Dataset:
        """Returns the rows with `student_response`, `finish_reason` (`stop` or `length`) and the samples, lazily.

        Only of an engine with `spec.local` and `spec.student`; it lives as long as the pipeline. A row that cannot be
        answered comes back failed or filtered with its reason.
        """
        raise NotImplementedError

    @staticmethod
    def guarded(processes: str, replicas: int, rows_done: Callable[[], int]) -> AbstractContextManager[None]:
        """Returns the context in which the rows of `generate` are written: raises StageError if engines keep dying, and
        frees what they claimed.

        `processes` is the folder of their records, `rows_done` counts the rows that are written.
        """
        return nullcontext()
