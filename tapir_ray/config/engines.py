"""Specs of engines, by name: facts that the config and the cluster need without loading an engine.

    spec_of("vllm").local                       # True: the run loads the model
    spec_of("my_package.echo:Echo")             # attribute `spec` of a user's class

Engine classes are in `tapir_ray/llm/engine/` (docs/engines.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator

from tapir_ray.config.registry import resolve
from tapir_ray.config.resources import Replicas, Resources
from tapir_ray.errors import InputError

MODEL_KEYS = ("engine_kwargs", "max_model_len", "trust_remote_code")
"""Keys of an endpoint's section about loading a model."""
URL_KEYS = ("base_url", "api_key_env")
"""Keys about the address of a model and its API key."""
BATCH_KEYS = ("batch",)


class Settings(Protocol):
    """Section that sets up an engine: `student`, or an endpoint's."""

    @property
    def max_model_len(self) -> int: ...

    @property
    def engine_kwargs(self) -> Mapping[str, Any]: ...


def _takes_all(section: str, settings: Settings, claim: Replicas) -> None:
    pass


@dataclass(frozen=True)
class EngineSpec:
    """Facts about an engine that the config and the cluster need."""

    name: str
    reads: tuple[str, ...]
    """Keys of MODEL_KEYS, URL_KEYS and BATCH_KEYS that have an effect. Every engine reads the rest of its section."""
    local: bool = False
    """Whether the run loads the model: the engine claims `resources.ROLE`, and `model` is a folder or a hub name."""
    paid: bool = True
    """Whether a provider charges for tokens and may change the model behind its name."""
    student: bool = False
    """Whether the student can use it, not only the teacher and the judge."""
    batch_s: float = 0.0
    """Seconds that a request may wait for its batch to be answered; 0: requests are answered one by one."""
    keeps: bool = False
    """Whether `resources.student.keep` has an effect: `StudentWork.engines` are actors of vLLM that stay."""
    unbatched: str | None = None
    """Name of the engine that gives the same replies without batches. A pilot uses it, as a batch may take a day."""
    speed: tuple[str, ...] = ()
    """Arguments in `engine_kwargs` that fit an engine to its machine and do not change answers."""
    refuse: Callable[[str, Settings, Replicas], None] = _takes_all
    """Raises ValueError if the engine cannot start with the settings of a section and its resources."""

    def claims(self, resources: Resources, role: str) -> Replicas | None:
        """Returns the resources that the engine of a role holds while it runs; None if it needs none."""
        claim: Replicas | None = getattr(resources, role) if self.local else None
        return claim


def _refuse_short_steps(section: str, settings: Settings, claim: Replicas) -> None:
    """Raises ValueError if a step of vLLM on CPUs is too short for a whole prompt.

    Prompts are not read in chunks on CPUs; `llm/engine/requests.py` gives the reason.
    """
    tokens = settings.engine_kwargs.get("max_num_batched_tokens", settings.max_model_len)
    short = isinstance(tokens, int) and tokens < settings.max_model_len
    if not claim.gpus and short and not settings.engine_kwargs.get("enable_chunked_prefill"):
        raise ValueError(
            f"{section}.engine_kwargs.max_num_batched_tokens {tokens} is below {section}.max_model_len "
            f"{settings.max_model_len}, but an engine on CPUs reads a prompt in one step: raise it, or set "
            f"{section}.engine_kwargs.enable_chunked_prefill if answers are greedy"
        )


OPENAI = EngineSpec("openai", URL_KEYS, student=True)
OPENAI_BATCH = EngineSpec(
    "openai_batch",
    (*URL_KEYS, *BATCH_KEYS),
    # A provider may take 24 hours for a batch. Two more leave time to fetch its results.
    batch_s=26 * 3600.0,
    unbatched=OPENAI.name,
)
VLLM = EngineSpec(
    "vllm",
    MODEL_KEYS,
    local=True,
    paid=False,
    student=True,
    keeps=True,
    speed=(
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_num_seqs",
        "max_num_batched_tokens",
        "enforce_eager",
        "enable_prefix_caching",
        "swap_space",
        "cpu_offload_gb",
        "disable_log_stats",
        "distributed_executor_backend",
    ),
    refuse=_refuse_short_steps,
)
SPECS = {spec.name: spec for spec in (OPENAI, OPENAI_BATCH, VLLM)}


def spec_of(name: str) -> EngineSpec:
    """Returns the spec of a shipped engine, or of a class `package.module:Class`. Raises ValueError for neither."""
    if name in SPECS:
        return SPECS[name]
    if ":" in name:
        return _own(name)
    near = difflib.get_close_matches(name, SPECS, n=1)
    known = f"did you mean {near[0]}?" if near else f"use {', '.join(SPECS)}, or package.module:Class"
    raise ValueError(f"unknown engine {name}; {known}")


@cache
def _own(name: str) -> EngineSpec:
    try:
        found = resolve(name, {}, what="engine")
    except InputError as error:
        raise ValueError(str(error).removeprefix("engine: ")) from error
    spec = getattr(found, "spec", None)
    if not isinstance(spec, EngineSpec):
        raise ValueError(f"{name} is not an engine: give its class a `spec`, an EngineSpec (docs/engines.md)")
    return spec


def readers(key: str) -> str:
    """Returns the names of the shipped engines that read a key, joined by "or", for a message."""
    return " or ".join(name for name, spec in SPECS.items() if key in spec.reads)


def _known(name: str) -> str:
    spec_of(name)
    return name


EngineName = Annotated[str, AfterValidator(_known)]
"""Name of a shipped engine, or `package.module:Class`."""
