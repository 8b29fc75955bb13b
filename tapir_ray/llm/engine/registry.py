"""Engines by name.

engine_class("vllm"), engine_class("my_package.echo:Echo")
"""

from __future__ import annotations

from tapir_ray.config.registry import resolve
from tapir_ray.errors import InputError
from tapir_ray.llm.engine.base import Engine
from tapir_ray.llm.engine.openai import OpenAI
from tapir_ray.llm.engine.openai_batch import OpenAIBatch
from tapir_ray.llm.engine.vllm import Vllm

ENGINES: dict[str, type[Engine]] = {engine.spec.name: engine for engine in (OpenAI, OpenAIBatch, Vllm)}


def engine_class(name: str) -> type[Engine]:
    """Returns the class of an engine: a shipped one, or `package.module:Class`. Raises InputError for neither."""
    found = resolve(name, ENGINES, what="engine")
    if isinstance(found, type) and issubclass(found, Engine):
        return found
    raise InputError(f"engine: {name} is not a subclass of tapir_ray.llm.engine.base.Engine; make it one")
