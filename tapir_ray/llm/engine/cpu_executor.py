"""Executor for vLLM on CPUs: runs the model in the engine's own process, on all cores or its share of them.

vLLM's default is a second process for the model and a core kept free for the first (`OMPProcessManager`). On two cores
this leaves one for the model.
"""

from __future__ import annotations

import os

import torch
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from tapir_ray.llm.engine.variables import THREADS


class OneProcess(UniProcExecutor):
    """Executor of an engine without tensor parallelism, set by its name in `llm/engine/requests.py`."""

    def _init_executor(self) -> None:
        # Ray sets as many threads as the worker claims CPUs, and these are logical: a worker of 0.1 CPUs gets 1 thread.
        torch.set_num_threads(int(os.environ.get(THREADS) or len(os.sched_getaffinity(0))))
        super()._init_executor()
