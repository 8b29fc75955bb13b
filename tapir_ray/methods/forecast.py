"""Forecast of a run from its config and seed data, for the report: the guess of `tapir check`."""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.cost.estimate import Estimate
from tapir_ray.cost.seed_sample import Seed, read_seed
from tapir_ray.cost.sizes import guessed, with_shares
from tapir_ray.curriculum import tasks
from tapir_ray.data.files import find_seed, is_hub_id
from tapir_ray.errors import InputError
from tapir_ray.methods import layout_of, method_of
from tapir_ray.report.html.view import Methods
from tapir_ray.run.layout import SEED_FILE
from tapir_ray.run.run import Run

MOST_ROWS = 200_000
"""Seed rows that are read for a forecast: some seconds."""


def forecast(config: Config, run: Run) -> Estimate:
    """Returns the guessed requests of a whole run. Raises InputError, with the reason, if there can be none.

    It is computed once in a process for a run, since a run writes its report after each round.
    """
    key = (run.uri, config.digest())
    if key not in _KNOWN:
        _KNOWN[key] = _forecast(config, run)
    return _KNOWN[key]


_KNOWN: dict[tuple[str, str], Estimate] = {}


def _forecast(config: Config, run: Run) -> Estimate:
    if config.simulator is not None and config.simulator.seed_rows:
        seed_data = config.seed_data.model_copy(update={"path": run.uri_of(SEED_FILE)})
        config = config.model_copy(update={"seed_data": seed_data})
    seed, taxonomy = _seed(config, run), tasks.load(config.curriculum)
    sizes = guessed(config, seed, taxonomy)
    return method_of(config).estimate(config, seed, with_shares(taxonomy, sizes), sizes)


def _seed(config: Config, run: Run) -> Seed:
    if not config.reads_seed_data:
        return Seed()
    read = run.find_json("seed/read/_manifest.json") or {}
    if read.get("rows", 0) > MOST_ROWS:
        raise InputError(f"the seed data has more than {MOST_ROWS:,} rows; tapir check reads all of them")
    if any(map(is_hub_id, find_seed(config.seed_data).files)):
        raise InputError("the seed data is on the hub, and a report loads nothing; see tapir check")
    return read_seed(config)


REPORTED = Methods(layout_of, forecast)
"""What a report asks of the methods."""
