"""Where rows come from: the seed data, its holdout, and the simulator that can stand in for both."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tapir_ray.config.section import Count, Section, Share


class SeedData(Section):
    """Where the seed instructions come from."""

    path: str | None = None
    """File, folder or HF hub id; may be left out only where `simulator.seed_rows` writes the seed data."""
    revision: str | None = None
    format: Literal["auto", "alpaca", "messages", "sharegpt", "prompt", "parquet", "hf"] = "auto"
    limit: Count | None = None
    """Rows read, in file order; the `recorded` simulator serves the ones beyond."""
    responses: Literal["keep", "fill", "replace"] = "keep"
    turns: Literal["last", "all"] = "last"
    task_column: str | None = None
    licence: str | None = None
    skip_malformed: bool = False
    """A malformed row stops the run (default) or becomes a filtered row with the line in its reason."""


class Holdout(Section):
    """Rows split off by hash before anything else; only they say what is better."""

    rows: Annotated[int, Field(ge=0)] = 400
    max_share: Share = 0.2
    """At most this share of the seed data (of each stratum) is held out."""
    stratify_by: list[str] = Field(default_factory=list)
    """Columns of the seed file; the holdout then takes equal numbers from each combination of their values."""
    select_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the holdout whose scores choose the best round; the scores of the others are reported. 0: none choose,
    and the last round is the result."""


class Simulator(Section):
    """A simulated teacher and judge that this run starts on loopback (`tapir simulate` starts one by hand)."""

    scenario: str = "tasks"
    """`tasks`, or `recorded`: the rows of `seed_data.path` beyond `seed_data.limit`."""
    path: str | None = None
    """Another file of recorded pairs for `recorded`."""
    seed_rows: Annotated[int, Field(ge=0)] = 0
    """`tasks`: write this many skewed seed rows into the run and use them as seed data."""
    latency_s: Annotated[float, Field(ge=0)] = 0.0
    judge_noise: Annotated[float, Field(ge=0)] = 0.0
    position_bias: float = 0.0
    length_bias: float = 0.0
    error_rate: Share = 0.0
    """Share of the requests that meet an error: 429, 500, 503, a dropped or hanging connection, a broken reply."""
    max_requests_per_minute: Count | None = None
    """What is above it in any 60 seconds is answered 429."""
    log: str | None = None
