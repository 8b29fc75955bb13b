"""Prompts, sampling parameters, arguments and environment of the student's engine.

Prompts are rendered and tokenised by the function that training uses, so the student gets exactly the tokens that it
was trained on.
"""
# Without vLLM and `ray.data.llm`: workers that only send prompts import this module, and those imports take seconds.

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from tapir_ray.config import Replicas, Student
from tapir_ray.data.schemas import HOLDOUT
from tapir_ray.data.storage import is_remote
from tapir_ray.llm.engine import watchdog
from tapir_ray.llm.row_sampling import PREFIX, sampling_of_row
from tapir_ray.run.model_store import FOLDER, MODEL, folder
from tapir_ray.train.chat import encode_begun, encode_prompt, shared_stop_token_ids, shared_tokenizer
from tapir_ray.train.control_tokens import RowRefused

if TYPE_CHECKING:  # its module imports the clients, which take the workers a second
    from tapir_ray.llm.engine.base import StudentWork

TOO_LONG = "prompt_too_long"
MOST_AT_ONCE = 1024
"""Most sequences that an engine answers at once if `max_num_seqs` is not set: vLLM's own number for large GPUs."""
ON_CPUS = "tapir_ray.llm.engine.cpu_executor.OneProcess"
"""Class of the executor, by its name because this process does not import vLLM."""
WHOLE_PROMPTS = {"enable_chunked_prefill": False}
"""Engine arguments on CPUs: there vLLM 0.29 crashes if a prompt with a seed and a temperature is read in two steps."""
KV_CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""Environment variable with the GiB of an engine's KV cache on CPUs. In vLLM it wins over `kv_cache_memory_bytes`."""
KV_CACHE_BYTES = 2**30
"""KV cache on CPUs if neither the variable nor `engine_kwargs` gives it. vLLM's own is a third of the node's memory."""


def tokenised(
    row: dict[str, Any], model: str, student: Student, random_seed: int, samples: int = 0, temperature: float = 1.0
) -> dict[str, Any]:
    """Returns the row with `tokenized_prompt`, `sampling_params`, `max_tokens` and `stop_token_ids` for the engine.

    The columns `samples` and `sample_temperature` ask for further answers; a row of the holdout has 0 samples. The
    columns of `row_sampling` replace the student's sampling, or hold the begin of an answer to continue.

    A row that cannot be answered has its reason in `unasked` (else ""). Its prompt is one token, since every row passes
    through the engine.
    """
    sampling, tokenizer = sampling_of_row(row, student.sampling), shared_tokenizer(model, student)
    row["unasked"] = ""
    try:
        if begun := (row.get(PREFIX) or "").rstrip():
            # Without the space at its end, which belongs to the next token of most tokenizers.
            prompt = encode_begun(tokenizer, row["messages"], begun, student.chat_template_kwargs)
        else:
            prompt = encode_prompt(tokenizer, row["messages"], student.chat_template_kwargs)
        if len(prompt) >= student.max_model_len:
            row["unasked"] = TOO_LONG
    except RowRefused as refused:
        row["unasked"] = refused.reason
    if row["unasked"]:
        prompt = [tokenizer.eos_token_id]  # vLLM refuses an empty prompt
    row["tokenized_prompt"] = prompt
    row["max_tokens"] = 1 if row["unasked"] else min(sampling.max_tokens, student.max_model_len - len(prompt))
    # With a chat template from another model, the end of its turns is not in the model's own generation config.
    row["stop_token_ids"] = shared_stop_token_ids(model, student)
    row["samples"] = 0 if row["unasked"] or row.get("split") == HOLDOUT else samples
    row["sample_temperature"] = temperature
    row["sampling_params"] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": row["max_tokens"],
        "seed": random_seed,
        "stop_token_ids": row["stop_token_ids"],
    }
    return row


def asking(work: StudentWork) -> dict[str, Any]:
    """Returns the arguments of `tokenised` after the row, for the rows of a table."""
    names = ("model", "student", "random_seed", "samples", "temperature")
    return {name: getattr(work, name) for name in names}


def engine_arguments(model: str, student: Student, replicas: Replicas) -> dict[str, Any]:
    """Returns vLLM's engine arguments for a model of the student; `engine_kwargs` of the config take precedence."""
    arguments: dict[str, Any] = {
        "max_model_len": student.max_model_len,
        "dtype": student.dtype,
        "trust_remote_code": student.trust_remote_code,
        "tensor_parallel_size": replicas.tensor_parallel,
        # Nothing reads these statistics, and counting them costs time for every token.
        "disable_log_stats": True,
    }
    if model == student.model and student.revision:
        arguments |= {"revision": student.revision, "tokenizer_revision": student.revision}
    if replicas.gpus == 0:
        arguments |= {"enforce_eager": True, **WHOLE_PROMPTS}
        if KV_CACHE not in os.environ:
            arguments["kv_cache_memory_bytes"] = KV_CACHE_BYTES
        if replicas.tensor_parallel == 1:
            arguments["distributed_executor_backend"] = ON_CPUS
    return {**arguments, **student.engine_kwargs}


def batches_at_once(student: Student) -> int:
    """Returns the batches of rows that the worker of an engine holds."""
    # Twice the sequences of the engine, so that the next prompts are in the worker when all answers end together.
    in_hand = 2 * student.engine_kwargs.get("max_num_seqs", MOST_AT_ONCE)
    return max(2, math.ceil(in_hand / student.batch_size))


def engine_environment(replicas: Replicas, processes: str | None, model: str = "") -> dict[str, str]:
    """Returns the environment variables of an engine's worker; `model` is one that its process has to copy."""
    environment = {"VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
    if replicas.gpus == 0:
        environment |= {KV_CACHE: os.environ[KV_CACHE]} if KV_CACHE in os.environ else {}
    if is_remote(model):
        environment |= {MODEL: model, FOLDER: str(folder())}
    if processes is not None:
        environment[watchdog.PROCESSES] = processes
    return environment
