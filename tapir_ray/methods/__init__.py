"""Methods by name: `METHODS["tapir"]`. `config.work` selects one."""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.methods.elad import ELAD
from tapir_ray.methods.evaluate import EVALUATE
from tapir_ray.methods.method import Method
from tapir_ray.methods.regenerate import REGENERATE
from tapir_ray.methods.tapir import TAPIR
from tapir_ray.run.layout import Layout

METHODS: dict[str, Method] = {"tapir": TAPIR, "elad": ELAD, "regenerate": REGENERATE, "evaluate": EVALUATE}


def method_of(config: Config) -> Method:
    """Returns the method that a config runs."""
    return METHODS[config.work]


def layout_of(config: Config) -> Layout:
    """Returns the tables that a run of the config writes."""
    return method_of(config).layout(config)
