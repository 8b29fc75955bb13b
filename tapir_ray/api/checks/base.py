"""Interface of the checks of `tapir check`: a function from what is known of a run to rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tapir_ray.config import Config
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.sizes import Sizes

PASS: Final = "pass"
WARN: Final = "warn"
FAIL: Final = "fail"
UNKNOWN: Final = "unknown"
Status = Literal["pass", "warn", "fail", "unknown"]
"""`unknown`: it could not be checked here; `todo` says how it can be."""


@dataclass(frozen=True)
class Finding:
    """Row of the table."""

    name: str
    status: Status
    found: str
    todo: str = ""
    """What to change, or how to find out; empty for `pass`."""


@dataclass(frozen=True)
class Subject:
    """Run to check, with everything that was read for the forecast."""

    config: Config
    run_dir: str
    seed: Seed = field(default_factory=Seed)
    sizes: Sizes = field(default_factory=Sizes)
    report: Mapping[str, Any] = field(default_factory=dict)
    """Values of the forecast by the names of `tapir check --json`."""
    messages: Sequence[str] = ()
    """Warnings and notes about the config and the seed data."""


Check = Callable[[Subject], Iterable[Finding]]


def gib(size: float) -> str:
    """Returns bytes in words: 12 MiB, 1.2 GiB, 140 GiB."""
    value = size / 2**30
    return f"{size / 2**20:,.0f} MiB" if value < 0.5 else f"{value:,.1f} GiB" if value < 100 else f"{value:,.0f} GiB"
