"""What a run may use: machines, prompts, the cache of replies, money."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from tapir_ray.config.section import Count, Section


class Replicas(Section):
    """Resources of one kind of worker."""

    replicas: Count = 1
    """Workers, or engines, at most."""
    min_replicas: Count | None = None
    """Of engines and classifier: they begin with so many, more come while there is work and room; empty is
    `replicas`."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    tensor_parallel: Count = 1
    """GPUs over which an engine is spread, all on one node; each has `cpus` and `gpus`."""
    accelerator_type: str | None = None
    """Ray's name of a kind of GPU, such as L4 or A100; empty is any."""

    @model_validator(mode="after")
    def _in_order(self) -> Replicas:
        if self.fewest > self.replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above replicas {self.replicas}")
        if self.accelerator_type is not None and not self.gpus:
            raise ValueError(f"accelerator_type {self.accelerator_type} needs gpus, which are 0")
        return self

    @property
    def fewest(self) -> int:
        """Replicas without which a stage does not begin."""
        return self.replicas if self.min_replicas is None else self.min_replicas


class Resources(Section):
    """What each part claims of the cluster. The same file with other `resources` runs elsewhere."""

    cpus: Count | None = None
    """CPUs Ray is told of when it is started here; empty is what the machine has."""
    object_store_gb: Annotated[float, Field(gt=0)] | None = None
    transform_cpus: Annotated[float, Field(gt=0)] = 0.1
    """CPUs each plain stage task claims; small, so that a pipeline fits a small machine."""
    rows_per_block: Count = 64
    """Rows that are written together by the stages that ask models: what a stop can lose of each."""
    request_workers: Count = 1
    """Actors that send requests to endpoints."""
    student: Replicas = Replicas()
    teacher: Replicas = Replicas()
    judge: Replicas = Replicas()
    classifier: Replicas = Replicas(cpus=0.5)
    train: Replicas = Replicas()
    stall_after_s: Annotated[float, Field(gt=0)] = 300.0
    """After so long without a row it is said which stage that is, and which operator of its pipeline waits."""
    no_progress_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """A stage in which nothing has happened for so long is given up."""
    lost_node_patience_s: Annotated[float, Field(ge=0)] = 60.0
    """How long a cluster may have too little for the run, after it lost nodes, before the run stops."""


class Prompts(Section):
    dir: str | None = None
    """A folder whose files replace the shipped prompts of the same name."""


class Cache(Section):
    """Replies are kept, and the same request is not paid for twice."""

    enabled: bool = True
    dir: str | None = None
    """Folder or URI that several runs may share; empty is `cache` in the run's own."""


class Budget(Section):
    max_cost: Annotated[float, Field(gt=0)] | None = None
    max_tokens: Count | None = None
