"""`tapir.check`: what a run will need, before anything is spent.

found = tapir.check("mine.yaml")
found.cost, found.tokens, found.warnings
"""

from __future__ import annotations

import os
from dataclasses import replace

from tapir_ray.api.caller import WARNING, Caller, Tell
from tapir_ray.api.configs import Changes, ConfigLike, configured, place_of
from tapir_ray.api.forecast import Forecast, forecast


def check(
    config: ConfigLike,
    run_dir: str | os.PathLike[str] | None = None,
    *,
    pilot: int = 0,
    changes: Changes | None = None,
    tell: Tell | None = None,
) -> Forecast:
    """Checks a config and returns the forecast of its run: requests, tokens and price by stage and role.

    - `config`: path of a YAML file, its content as a mapping, or a `Config`; `changes` are values by key.
    - `pilot`: rows that are sent through every stage, to measure instead of guess. It spends a little, needs Ray, and
      has a folder of its own next to `run_dir`.
    - `tell`: gets a line at the end of each stage of a pilot.

    Raises InputError for a config, a file or an endpoint that a run would refuse, and Stopped if the budget is too
    small for the pilot.
    """
    given = configured(config, changes)
    warnings: list[str] = []

    def listen(message: str) -> None:
        warnings.append(message) if message.startswith(WARNING) else (tell or warnings.append)(message)

    found = forecast(given, place_of(given, run_dir), pilot, Caller(listen))
    return replace(found, warnings=tuple(message.removeprefix(WARNING) for message in warnings))
