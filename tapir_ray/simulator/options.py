"""Options of a simulator: the fields of `tapir simulate`."""

from __future__ import annotations

from dataclasses import dataclass

from tapir_ray.config.data import TASKS


def flag(field: str) -> str:
    """The command-line option of a field: `latency_s` gives `--latency`, in seconds."""
    return f"--{field.removesuffix('_s').replace('_', '-')}"


@dataclass(frozen=True)
class Options:
    """Options of one simulator. Replies depend only on the request, the scenario, `seed` and the judge's settings."""

    scenario: str = TASKS
    """`tasks`, `recorded` (with `path`), or a file, which is short for `recorded` with that path."""
    host: str = "127.0.0.1"
    """A loopback address; others are refused."""
    port: int = 0
    """0 takes a free port."""
    seed: int = 0
    latency_s: float = 0.0
    """Delay of each reply, in seconds."""
    judge_noise: float = 0.0
    """Standard deviation of the judge's noise, in score points."""
    position_bias: float = 0.0
    """Points added to the first of two answers."""
    length_bias: float = 0.0
    """Points added for every 100 words of an answer."""
    teacher_error_rate: float = 0.0
    """`tasks`: share of the instructions whose every answer of the teacher is wrong, from 0 to 1."""
    revision_error_rate: float = 0.0
    """`tasks`: share of the revisions of steps that are those of another problem, from 0 to 1."""
    error_rate: float = 0.0
    """Share of the requests that meet an error (`faults.FAULTS`)."""
    hang_s: float = 30.0
    """Seconds after which a hanging request is dropped."""
    max_requests_per_minute: int | None = None
    """Requests beyond this number in any 60 seconds are answered with 429 and Retry-After."""
    batch_s: float = 0.2
    """Duration of a batch, in seconds."""
    expire_batches: int = 0
    """Number of batches, from the first on, that expire with half of their requests answered."""
    refuse_response_format: bool = False
    """If true, a request with a `response_format` is answered with 400, as by older servers."""
    log: str | None = None
    """File for one JSON line per request."""
    path: str | None = None
    """`recorded`: the file of (instruction, response) pairs."""
    is_seed: int = 0
    """`recorded`: 1 if the file is the seed data of the run; then the same files and split are read as by the run."""
    split: str | None = None
    """`seed_data.split` of that run."""
    revision: str | None = None
    """`seed_data.revision` of that run."""
    skip: int = 0
    """`recorded`: number of first rows that are never handed out as new instructions."""
    columns: str | None = None
    """`recorded`: JSON of the columns by role, in the form of `seed_data.columns`."""
    task_words: str | None = None
    """`recorded`: YAML file with the words of each task; None takes the shipped taxonomy."""
