"""Refuses keys that a user wrote and that another key leaves without effect.

    refuse_contradictions(config, in_file={"cache.enabled", "cache.dir"}, in_overrides=set())

- `--set` wins over the file: a key of the file that an override silences is ignored, not refused.
- A key of an override that a key of the file silences is refused. So is a pair within the file or the overrides.
- A section with every key comes from a run's own `config.yaml`: a default value in it was not the user's choice.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from typing import Any

from tapir_ray.config.config import Config
from tapir_ray.config.section import Section
from tapir_ray.config.silence import value_of
from tapir_ray.config.silences import OF_SEED_ROWS, SEED_PATH, SEED_ROWS, SILENCES


def refuse_contradictions(config: Config, in_file: Collection[str], in_overrides: Collection[str]) -> None:
    """Raises ValueError, naming the key, if a key that the user gave has no effect.

    `in_file` and `in_overrides` are the keys (`a.b`) of the file and of `--set`.
    """
    for silence in SILENCES:
        for key in silence.keys:
            given = key in in_overrides or (key in in_file and silence.by not in in_overrides)
            if given and silence.when(config) and _is_wish(config, key):
                raise ValueError(f"{key} has no effect {silence.because}")
    two_sources = config.simulator is not None and config.simulator.seed_rows and config.seed_data.path is not None
    if two_sources and {SEED_ROWS, SEED_PATH} <= {*in_file, *in_overrides}:
        raise ValueError(
            f"{SEED_PATH} and {SEED_ROWS} are two sources of seed data: take out {SEED_ROWS} to use the file, or "
            f"{SEED_PATH} to have rows written"
        )


def without_generated_seed(content: dict[str, Any], in_overrides: Collection[str]) -> dict[str, Any]:
    """Returns the content without OF_SEED_ROWS if an override gives `seed_data.path`: the user's file wins."""
    simulator, seed_data = content.get("simulator"), content.get("seed_data")
    if not isinstance(simulator, dict) or not isinstance(seed_data, dict):
        return content
    if SEED_PATH not in in_overrides or SEED_ROWS in in_overrides or seed_data.get("path") is None:
        return content
    return {**content, "simulator": {key: value for key, value in simulator.items() if key not in OF_SEED_ROWS}}


def _is_wish(config: Config, key: str) -> bool:
    """Whether the user chose the value of a key: not an empty one, nor a default in a section that a run wrote."""
    value, place = value_of(config, key), key.rpartition(".")[0]
    section = value_of(config, place) if place else config
    if value in (None, {}, [], False):
        return False
    # `Config.dump` writes every key, users hardly ever do.
    whole = isinstance(section, Section) and section.model_fields_set == section.__class__.model_fields.keys()
    return not whole or value != _default(key)


def _default(key: str) -> Any:
    top, *others = key.split(".")
    value = Config.model_fields[top].get_default(call_default_factory=True)
    return reduce(lambda section, name: getattr(section, name, None), others, value)
