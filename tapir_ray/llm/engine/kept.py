"""Engines of the student that stay between tables and rounds, and are given the new weights.

    engines = KeptEngines(replicas, run.uri_of(PROCESSES))
    engine = engines.handles()[0]                          # starts the actors; they load nothing yet
    ray.get(engine.load.remote(Order(folder, arguments, replicas)))
    engines.stop()

An actor without vLLM's own Ray worker: it lives as long as the driver, not as the pipeline of a table.
"""
# Without vLLM: the driver and the workers of a table import this module. The actor imports vLLM when it loads a model.

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from tapir_ray.config import Replicas
from tapir_ray.data.values import one_line
from tapir_ray.llm.engine.requests import engine_environment
from tapir_ray.llm.engine.worker import engine_sizes, set_threads
from tapir_ray.run.model_store import local

STOP_S, GRACE_S = 5.0, 1.0
"""Longest wait, in seconds, for engines to end before their actors are killed; seconds of it for their processes."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json",
    "special_tokens_map.json",
)  # fmt: skip
NOT_RELOADED = ("quantization", "speculative_config", "load_format", "enable_lora", "hf_overrides")
"""Engine arguments with which the weights of a running engine are not replaced: it starts again."""
VOLATILE = ("transformers_version", "_name_or_path", "use_cache")
"""Keys of a model's config that change no answer."""

Answer = dict[str, Any] | str
"""Output of the engine for a prompt: text, tokens and their number; or the message of an error."""


class NotLoadedError(Exception):
    """The engine has been restarted, or holds another model."""


@dataclass(frozen=True)
class Order:
    """A model for an engine: its folder, URI or name, and vLLM's arguments for it."""

    model: str
    arguments: dict[str, Any] = field(hash=False)
    replicas: Replicas = field(hash=False)


class KeptEngine:
    """Actor with one engine. All calls run concurrently; those for a model wait until it is loaded."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._identity: str | None = None
        self._model: str | None = None
        self._asked: set[asyncio.Task[Any]] = set()
        self._lock = asyncio.Lock()
        self._requests = 0

    # A load that dies with the engine's process is tried again by the restarted actor. `stopped_if_dying` ends this.
    @ray.method(max_task_retries=-1)
    async def load(self, order: Order) -> None:
        """Loads a model, unless it is loaded. Requests for another model are cancelled.

        Replaces the weights of the running engine if the architecture and the tokenizer are the same. Otherwise the
        actor ends itself, so that its successor loads the model. Raises RuntimeError for an engine that cannot start.
        """
        async with self._lock:
            if self._model == order.model:
                return
            folder = await asyncio.to_thread(local, order.model)
            identity = identity_of(folder, order)
            if self._engine is None:
                await self._start(folder, order)
            elif identity != self._identity or identity is None:
                # A second engine in this process would have the environment of the first.
                logging.getLogger(__name__).warning("%s is another kind of model: the engine starts again", order.model)
                os._exit(1)
            else:
                await self._replace(folder)
            self._model, self._identity = order.model, identity

    async def answers(self, model: str, requests: dict[int, tuple[list[int], dict[str, Any]]]) -> AsyncIterator[Any]:
        """Yields lists of (key, Answer) for (prompt tokens, sampling parameters) by key, as they are finished.

        Raises NotLoadedError if the engine does not hold the model.
        """
        if self._model != model:
            raise NotLoadedError(model)
        finished: asyncio.Queue[tuple[int, Answer | None]] = asyncio.Queue()
        tasks = [asyncio.create_task(self._answer(key, *one, finished)) for key, one in requests.items()]
        self._asked.update(tasks)
        try:
            left = len(tasks)
            while left:
                group = [await finished.get()]
                while not finished.empty():
                    group.append(finished.get_nowait())
                left -= len(group)
                if any(answer is None for _, answer in group):
                    raise NotLoadedError(model)
                yield group
        finally:
            for task in tasks:
                task.cancel()
            self._asked.difference_update(tasks)

    async def stop(self) -> None:
        """Ends the engine's processes. The actor is of no further use."""
        # Without the lock: an engine that is still starting is killed with its actor.
        self._model = None
        if self._engine is not None:
            await asyncio.to_thread(self._engine.shutdown, GRACE_S)

    async def _start(self, folder: str, order: Order) -> None:
        set_threads(order.replicas)
        try:
            self._engine = await asyncio.to_thread(_new_engine, folder, order)
        except Exception as error:
            logging.getLogger(__name__).exception("the engine could not be started")
            # The classes of vLLM cannot be unpickled without importing it.
            raise RuntimeError(f"{type(error).__name__}: {one_line(error)}") from None

    async def _replace(self, folder: str) -> None:
        self._model = None
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        try:
            await self._engine.collective_rpc("take_weights", args=(folder,))
            await self._engine.reset_prefix_cache()
        except Exception as error:
            # The engine may hold a part of the weights.
            logging.getLogger(__name__).error("the weights of %s could not be loaded: %s", folder, error)
            os._exit(1)

    async def _answer(
        self, key: int, prompt: list[int], params: dict[str, Any], finished: asyncio.Queue[tuple[int, Answer | None]]
    ) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._requests += 1
        answer: Answer | None = None
        try:
            # By default vLLM sends an output for every token.
            sampling = SamplingParams(**params, output_kind=RequestOutputKind.FINAL_ONLY)
            stream = self._engine.generate({"prompt_token_ids": prompt}, sampling, str(self._requests))
            async for output in stream:
                one = output.outputs[0]
                answer = {"generated_text": one.text, "generated_tokens": list(one.token_ids)}
        except BaseException as error:
            if self._engine.errored:
                logging.getLogger(__name__).error("the engine is dead: %s: %s", type(error).__name__, error)
                os._exit(1)
            # Only `_replace` cancels a request whose answer somebody waits for.
            cancelled = isinstance(error, asyncio.CancelledError)
            answer = None if cancelled else f"{type(error).__name__}: {error}"
        finished.put_nowait((key, answer))


class KeptEngines:
    """Actors of a run's kept engines. The driver owns them: they end with it."""

    def __init__(self, replicas: Replicas, processes: str | None) -> None:
        """Takes the folder for records of engine processes as `processes`; None keeps no records."""
        self._replicas, self._processes = replicas, processes
        self._handles: list[Any] = []

    @property
    def up(self) -> bool:
        return bool(self._handles)

    def handles(self) -> list[Any]:
        """Returns the actors, started if they are not up. Ray places them when their resources are free."""
        claim = self._replicas
        if not self._handles:
            options: dict[str, Any] = {"num_cpus": claim.cpus, "num_gpus": claim.gpus, "max_restarts": -1}
            if claim.accelerator_type:
                options["accelerator_type"] = claim.accelerator_type
            environment = engine_environment(claim, self._processes)
            kept: Any = ray.remote(KeptEngine).options(**options, runtime_env={"env_vars": environment})
            self._handles = [kept.remote() for _ in range(claim.replicas)]
        return list(self._handles)

    def stop(self) -> None:
        """Ends the engines and frees their resources. `handles` starts new ones."""
        handles, self._handles = self._handles, []
        if handles:
            ray.wait([handle.stop.remote() for handle in handles], num_returns=len(handles), timeout=STOP_S)
        for handle in handles:
            ray.kill(handle)


def _new_engine(folder: str, order: Order) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from tapir_ray.llm.engine.reload import EXTENSION

    given = {"distributed_executor_backend": "uni", "worker_extension_cls": EXTENSION, **order.arguments}
    given |= engine_sizes(order.replicas, given) | given
    return AsyncLLM.from_engine_args(AsyncEngineArgs(model=folder, runner="generate", **given))


def identity_of(folder: str, order: Order) -> str | None:
    """Returns a text that is equal for models whose weights one engine can hold in turn; None for one that starts anew.

    It has the engine's arguments, the model's config and generation config, and a hash of each tokenizer file.
    """
    place, arguments = Path(folder), order.arguments
    config = _json(place / "config.json")
    if not config or "quantization_config" in config or any(arguments.get(name) for name in NOT_RELOADED):
        return None
    ignored = VOLATILE if arguments.get("dtype") == "auto" else (*VOLATILE, "dtype", "torch_dtype")
    described = {name: value for name, value in config.items() if name not in ignored}
    generation = {
        name: value for name, value in _json(place / "generation_config.json").items() if name not in VOLATILE
    }
    files = [
        (name, hashlib.blake2b((place / name).read_bytes()).hexdigest())
        for name in TOKENIZER_FILES
        if (place / name).is_file()
    ]
    return json.dumps([described, generation, files, arguments], sort_keys=True, default=str)


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return content
