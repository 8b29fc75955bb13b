"""Facts about engines, by name: what the config and the cluster ask without loading one.

    spec_of("vllm").local                       # True: the run holds the model
    spec_of("my_package.echo:Echo")             # the `spec` of a class of the user's own

The class of each engine is in `tapir_ray/llm/engine/` (docs/engines.md).
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
"""Keys of an endpoint's section that say how a model is loaded."""
URL_KEYS = ("base_url", "api_key_env")
"""Keys that say where a model is, and who asks."""
BATCH_KEYS = ("batch",)


class Settings(Protocol):
    """The section that an engine is set by: `student`, or an endpoint's."""

    @property
    def max_model_len(self) -> int: ...

    @property
    def engine_kwargs(self) -> Mapping[str, Any]: ...


def _takes_all(section: str, settings: Settings, claim: Replicas) -> None:
    pass


@dataclass(frozen=True)
class EngineSpec:
    """An engine, as far as the config and the cluster must know it."""

    name: str
    reads: tuple[str, ...]
    """Those of MODEL_KEYS, URL_KEYS and BATCH_KEYS that have an effect. Every engine reads the rest of its section."""
    local: bool = False
    """The run holds the model: the engine claims `resources.ROLE` and loads `model`, a folder or a name on the hub."""
    paid: bool = True
    """A provider charges for tokens and may change the model behind its name."""
    student: bool = False
    """The student can have it too, not the teacher and the judge alone."""
    batch_s: float = 0.0
    """Seconds that a request may wait for the batch that it goes in; 0 answers each by itself."""
    unbatched: str | None = None
    """The engine that gives the same replies without batches: it has the same results, and a pilot uses it."""
    speed: tuple[str, ...] = ()
    """Those of `engine_kwargs` that make an engine fit its machine and change no answer."""
    refuse: Callable[[str, Settings, Replicas], None] = _takes_all
    """Raises ValueError for settings (of this section, with these resources) that the engine cannot start with."""

    def claims(self, resources: Resources, role: str) -> Replicas | None:
        """Returns the resources that the engine of a role holds while it is up; None for none."""
        claim: Replicas | None = getattr(resources, role) if self.local else None
        return claim


def _refuse_short_steps(section: str, settings: Settings, claim: Replicas) -> None:
    """On CPUs a prompt is read in one step (`llm/engine/vllm_stage.py` says why), which must have room for it."""
    tokens = settings.engine_kwargs.get("max_num_batched_tokens", settings.max_model_len)
    short = isinstance(tokens, int) and tokens < settings.max_model_len
    if not claim.gpus and short and not settings.engine_kwargs.get("enable_chunked_prefill"):
        raise ValueError(
            f"{section}.engine_kwargs.max_num_batched_tokens {tokens} is below {section}.max_model_len "
            f"{settings.max_model_len}, and an engine on CPUs reads a prompt at once: raise it, or give greedy "
            "answers enable_chunked_prefill"
        )


OPENAI = EngineSpec("openai", URL_KEYS, student=True)
OPENAI_BATCH = EngineSpec(
    "openai_batch",
    (*URL_KEYS, *BATCH_KEYS),
    # A batch may take a day, and its results may be fetched late.
    batch_s=26 * 3600.0,
    unbatched=OPENAI.name,
)
VLLM = EngineSpec(
    "vllm",
    MODEL_KEYS,
    local=True,
    paid=False,
    student=True,
    speed=(
        "gpu_memory_utilization",
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
    known = f"did you mean {near[0]}?" if near else f"the engines are {', '.join(SPECS)}, or package.module:Class"
    raise ValueError(f"there is no engine {name}; {known}")


@cache
def _own(name: str) -> EngineSpec:
    try:
        found = resolve(name, {}, what="engine")
    except InputError as error:
        raise ValueError(str(error).removeprefix("engine: ")) from error
    spec = getattr(found, "spec", None)
    if not isinstance(spec, EngineSpec):
        raise ValueError(f"{name} is no engine: its class needs a `spec`, an EngineSpec (docs/engines.md)")
    return spec


def readers(key: str) -> str:
    """The names of the shipped engines that read a key, for a message."""
    return " or ".join(name for name, spec in SPECS.items() if key in spec.reads)


def _known(name: str) -> str:
    spec_of(name)
    return name


EngineName = Annotated[str, AfterValidator(_known)]
"""A shipped engine, or `package.module:Class`."""
