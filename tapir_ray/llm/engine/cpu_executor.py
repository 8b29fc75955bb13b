"""How vLLM computes on CPUs: in the engine's own process, on all cores or its share.

vLLM itself starts a further process for the model there and keeps a core free for the first (`OMPProcessManager`), so
that of two cores one computes.
"""

from __future__ import annotations

import os

import torch
from vllm.v1.executor.uniproc_executor import UniProcExecutor

THREADS = "TAPIR_ENGINE_THREADS"
"""Environment variable: how many; without it one for each core."""


class OneProcess(UniProcExecutor):
    """For an engine without tensor parallelism (`llm/engine/vllm_stage.py` names it)."""

    def _init_executor(self) -> None:
        # Ray gives a worker as many threads as it claims CPUs, which are logical ones.
        torch.set_num_threads(int(os.environ.get(THREADS) or len(os.sched_getaffinity(0))))
        super()._init_executor()
