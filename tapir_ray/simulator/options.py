"""What a simulator can be told: the fields of `tapir simulate`."""

from __future__ import annotations

from dataclasses import dataclass

from tapir_ray.config.data import TASKS


def flag(field: str) -> str:
    """The option of the command line that sets a field: `latency_s` is `--latency`, in seconds."""
    return f"--{field.removesuffix('_s').replace('_', '-')}"


@dataclass(frozen=True)
class Options:
    """One simulator. Replies depend on the request, the scenario, `seed` and the judge's faults alone."""

    scenario: str = TASKS
    """`tasks`, `recorded` (with `path`), or a file, which is short for `recorded` with that path."""
    host: str = "127.0.0.1"
    """Loopback only."""
    port: int = 0
    """0 takes a free one."""
    seed: int = 0
    latency_s: float = 0.0
    """Seconds each reply waits."""
    judge_noise: float = 0.0
    """Standard deviation, in score points, of what the judge adds to a score."""
    position_bias: float = 0.0
    """Points added to the first of two answers."""
    length_bias: float = 0.0
    """Points added for every 100 words an answer has."""
    error_rate: float = 0.0
    """Share of the requests that meet an error (`faults.FAULTS`)."""
    hang_s: float = 30.0
    """Seconds after which a hanging request is dropped."""
    max_requests_per_minute: int | None = None
    """What is above it in any 60 seconds is answered 429 with Retry-After."""
    batch_s: float = 0.2
    """Seconds a batch takes."""
    expire_batches: int = 0
    """The first batches, so many, expire with half of their requests answered."""
    refuse_response_format: bool = False
    """Whether a request with a `response_format` is answered 400, as older servers do."""
    log: str | None = None
    """File that gets one JSON line a request."""
    path: str | None = None
    """`recorded`: the file of (instruction, response) pairs."""
    is_seed: int = 0
    """`recorded`: 1 if the file is the run's seed data, of which the same files and split are read as by the run."""
    split: str | None = None
    """`seed_data.split` of that run."""
    revision: str | None = None
    """`seed_data.revision` of that run."""
    skip: int = 0
    """`recorded`: the first rows, which are never handed out as new instructions."""
    columns: str | None = None
    """`recorded`: JSON of the columns by role, as `seed_data.columns` names them."""
    task_words: str | None = None
    """`recorded`: YAML with the words of each task; empty is the shipped taxonomy."""
