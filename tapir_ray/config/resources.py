"""Settings of resources: CPUs and GPUs, prompts, the cache of replies, the budget."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from tapir_ray.config.section import Count, Section


class Replicas(Section):
    """Resources of the engines or workers of one role."""

    replicas: Count = 1
    """Most engines, or workers."""
    min_replicas: Count | None = None
    """Engines to begin with; more start while there is work and capacity. `null` is `replicas`. Not for `train`."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of each."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each; below 1, several share a GPU."""
    tensor_parallel: Count = 1
    """GPUs of one engine, all on one node; each claims `cpus` and `gpus`. Not for `classifier` and `train`."""
    accelerator_type: str | None = None
    """GPU type by Ray's name, such as L4 or A100; `null` is any."""
    keep: bool = False
    """Whether the engines stay between tables and rounds, and are given the new weights. Only for `student`."""

    @model_validator(mode="after")
    def _in_order(self) -> Replicas:
        if self.fewest > self.replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above replicas {self.replicas}")
        if self.accelerator_type is not None and not self.gpus:
            raise ValueError(f"accelerator_type {self.accelerator_type} needs gpus above 0")
        if self.keep and self.tensor_parallel > 1:
            raise ValueError(
                f"keep needs tensor_parallel 1, not {self.tensor_parallel}: a kept engine is one worker with one "
                "claim, and engines over several GPUs claim theirs by a placement group for each table; take one of "
                "them out"
            )
        if self.keep and self.min_replicas is not None:
            raise ValueError("min_replicas has no effect with keep, which starts all replicas: take one of them out")
        return self

    @property
    def fewest(self) -> int:
        """Replicas that a stage needs to begin."""
        return self.replicas if self.min_replicas is None else self.min_replicas


class Resources(Section):
    """Resources that the parts of a run claim. The same config with other `resources` runs on other machines."""

    cpus: Count | None = None
    """CPUs of a Ray that the run starts; `null` is the number of the machine."""
    object_store_gb: Annotated[float, Field(gt=0)] | None = None
    """Object store of that Ray, in GB."""
    transform_cpus: Annotated[float, Field(gt=0)] = 0.1
    """CPUs of each task of a plain transform; small, so that a pipeline fits on a small machine."""
    rows_per_block: Count = 64
    """Rows that stages with models write together: a stop loses at most these of each stage."""
    request_workers: Count = 1
    """Actors that send requests."""
    student: Replicas = Replicas()
    teacher: Replicas = Replicas()
    judge: Replicas = Replicas()
    classifier: Replicas = Replicas(cpus=0.5)
    train: Replicas = Replicas()
    stall_after_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds without a row before the run reports the stage and the operator of its pipeline that waits."""
    no_progress_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """Seconds without any progress before the stage ends the run."""
    lost_node_patience_s: Annotated[float, Field(ge=0)] = 60.0
    """Seconds that a cluster may have too few resources, after it lost nodes, before the run stops."""


class Prompts(Section):
    """Prompts of the user."""

    dir: str | None = None
    """Folder whose files replace the shipped prompts of the same name."""


class Cache(Section):
    """Cache of replies, so that no request is paid for twice."""

    enabled: bool = True
    dir: str | None = None
    """Folder or URI that several runs may share; `null` is `RUN/cache`."""


class Budget(Section):
    """Limits of spending, over all starts of the run; `null` is no limit."""

    max_cost: Annotated[float, Field(gt=0)] | None = None
    """US dollars."""
    max_tokens: Count | None = None
    """Input and output tokens."""
