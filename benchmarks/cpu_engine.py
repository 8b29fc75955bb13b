"""Measures what slows vLLM down on CPUs, one change at a time, each in a process of its own.

    python benchmarks/cpu_engine.py                        # all changes
    python benchmarks/cpu_engine.py --only bfloat16 "context of 600 tokens"

32 sequences, prompts of 40 random tokens, 32 new tokens, greedy. A line has tokens per second of the process's CPU time
and of the clock, both without the reading of the prompts. On a machine that others use too, compare CPU times. Writes
the model of `smollm2.py` if it is missing; the other shapes have random weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its requests.py would hide the package `requests`

import argparse
import json
import os
import random
import subprocess
import tempfile
import time
from typing import Any

from benchmarks.smollm2 import default_folder, make

SEQUENCES, NEW_TOKENS, PROMPT, ROUNDS = 32, 32, 40, 2
SMALLEST_VOCABULARY = 8192
SHAPE: dict[str, Any] = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""SmolLM2-135M."""
SHAPE_105M = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 14, "num_attention_heads": 12,
    "num_key_value_heads": 12, "vocab_size": SMALLEST_VOCABULARY,
}  # fmt: skip
"""The 105M Llama of infer.py."""
ONE_THREAD, TWO_THREADS = {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}
OLD_CPU = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "WITHOUT_BFLOAT16": "1"}
CHANGES: dict[str, dict[str, Any]] = {
    "SmolLM2, float32, 1 thread": {},
    "105M": {"shape": SHAPE_105M},
    "vocabulary of 8,192": {"shape": {"vocab_size": SMALLEST_VOCABULARY}},
    "9 key-value heads": {"shape": {"num_key_value_heads": 9}},
    "15 layers": {"shape": {"num_hidden_layers": 15}},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, CPU without its instructions": {"dtype": "bfloat16", "environment": OLD_CPU},
    "context of 600 tokens": {"prompt": 600},
    "context of 600 tokens, bfloat16": {"prompt": 600, "dtype": "bfloat16"},
    "blocks of 16 tokens": {"engine": {"block_size": 16}},
    "prompts in chunks": {"engine": {"enable_chunked_prefill": True}},
    "random seed": {"sampling": {"seed": 0}},
    "2 threads": {"environment": TWO_THREADS},
    "2 threads, passive": {"environment": {**TWO_THREADS, "OMP_WAIT_POLICY": "PASSIVE"}},
    "105M, 2 threads": {"shape": SHAPE_105M, "environment": TWO_THREADS},
    "105M, 2 threads, passive": {"shape": SHAPE_105M, "environment": {**TWO_THREADS, "OMP_WAIT_POLICY": "PASSIVE"}},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=CHANGES, help="changes to measure")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(json.loads(options.one))))
        return 0
    make(default_folder())
    for name in options.only or CHANGES:
        found = in_process(CHANGES[name])
        rates = "; ".join(f"{one['cpu']:.0f} tokens/CPU second, {one['clock']:.0f} tokens/s" for one in found)
        print(f"{name:42} {rates}", flush=True)
    return 0


def in_process(change: dict[str, Any]) -> list[dict[str, float]]:
    """Returns the rates of each round. Raises CalledProcessError if the engine does not start."""
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # The engine in this process: its CPU time is that of the process.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        **ONE_THREAD,
        **change.get("environment", {}),
    }
    command = [sys.executable, __file__, "--one", json.dumps(change)]
    told = subprocess.run(command, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True)
    rates: list[dict[str, float]] = json.loads(told.stdout.splitlines()[-1])
    return rates


def measured(change: dict[str, Any]) -> list[dict[str, float]]:
    """Returns tokens per second of CPU time and of the clock, for each round, without the reading of the prompts."""
    if "WITHOUT_BFLOAT16" in os.environ:
        import torch

        torch.cpu._is_avx512_bf16_supported = lambda: False  # vLLM then loads the kernels of older CPUs
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        llm = LLM(
            model=random_model(change["shape"], folder) if "shape" in change else str(default_folder()),
            dtype=change.get("dtype", "float32"),
            max_model_len=2048,
            max_num_seqs=SEQUENCES,
            enforce_eager=True,
            disable_log_stats=True,
            enable_prefix_caching=False,
            **{"enable_chunked_prefill": False, **change.get("engine", {})},
        )
    numbers = random.Random(0)

    def seconds(new_tokens: int) -> tuple[float, float]:
        """Returns (CPU, clock) seconds for answers of that many tokens to new prompts."""
        prompts: list[Any] = [
            {"prompt_token_ids": numbers.choices(range(100, SMALLEST_VOCABULARY - 192), k=change.get("prompt", PROMPT))}
            for _ in range(SEQUENCES)
        ]
        sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, **change.get("sampling", {}))
        clock, cpu = time.monotonic(), time.process_time()
        llm.generate(prompts, sampling, use_tqdm=False)
        return time.process_time() - cpu, time.monotonic() - clock

    seconds(2)
    rates = []
    for _ in range(ROUNDS):
        first, whole = seconds(1), seconds(NEW_TOKENS)
        tokens = SEQUENCES * (NEW_TOKENS - 1)
        rates.append({"cpu": tokens / (whole[0] - first[0]), "clock": tokens / (whole[1] - first[1])})
    return rates


def random_model(shape: dict[str, Any], folder: str) -> str:
    """Writes a Llama of SmolLM2's shape with changes, random weights and SmolLM2's tokenizer; returns its folder."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**{**SHAPE, **shape})).save_pretrained(folder)
    AutoTokenizer.from_pretrained(default_folder()).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
