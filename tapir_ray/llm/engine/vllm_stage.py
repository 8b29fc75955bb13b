"""The student as a batched vLLM engine inside a Ray Data pipeline (`ray.data.llm`).

    rows = generate(rows, model="runs/demo/checkpoints/01", student=config.student, resources=config.resources)

The prompt is rendered and tokenised by the same function that training uses, so the student is asked with exactly the
tokens it was trained on. The engine lives as long as the pipeline: it is gone when the table is written.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import ray.data
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from tapir_ray.cluster.ray_data import small_blocks
from tapir_ray.config import Replicas, Student
from tapir_ray.data.schemas import HOLDOUT
from tapir_ray.data.storage import is_remote
from tapir_ray.llm.engine import watchdog
from tapir_ray.llm.engine.worker import Asking, Keeping, collect
from tapir_ray.run.answer_log import AnswerLog
from tapir_ray.run.model_store import FOLDER, MODEL, folder, local
from tapir_ray.train.chat import encode_prompt, shared_stop_token_ids, shared_tokenizer
from tapir_ray.train.control_tokens import RowRefused

TOO_LONG = "prompt_too_long"
MOST_AT_ONCE = 1024
"""Sequences that an engine answers at once at most, where `max_num_seqs` does not say: vLLM's choice for large GPUs."""
ON_CPUS = "tapir_ray.llm.engine.cpu_executor.OneProcess"
"""A class, by its name: this process does not load vLLM."""
WHOLE_PROMPTS = {"enable_chunked_prefill": False}
"""Engine arguments on CPUs: vLLM 0.29 dies there of a sampled answer with a seed whose prompt is read in two steps."""


def tokenised(
    row: dict[str, Any], model: str, student: Student, random_seed: int, samples: int = 0, temperature: float = 1.0
) -> dict[str, Any]:
    """The row with `tokenized_prompt`, `sampling_params`, `max_tokens` and `stop_token_ids`, as the engine takes them.

    `samples` and `sample_temperature` of the row ask for further answers; a row of the holdout has 0 samples.

    A row that cannot be asked has its reason in `unasked` (else "") and one token in place of its prompt, since every
    row passes through the engine.
    """
    sampling, tokenizer = student.sampling, shared_tokenizer(model, student)
    row["unasked"] = ""
    try:
        prompt = encode_prompt(tokenizer, row["messages"], student.chat_template_kwargs)
        if len(prompt) >= student.max_model_len:
            row["unasked"] = TOO_LONG
    except RowRefused as refused:
        row["unasked"] = refused.reason
    if row["unasked"]:
        prompt = [tokenizer.eos_token_id]
    row["tokenized_prompt"] = prompt
    row["max_tokens"] = 1 if row["unasked"] else min(sampling.max_tokens, student.max_model_len - len(prompt))
    # The model's own generation config knows nothing of the end of another's template.
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


def engine_arguments(model: str, student: Student, replicas: Replicas) -> dict[str, Any]:
    """vLLM's engine arguments for this model of the student: the config's `engine_kwargs` win over what is derived
    here."""
    arguments: dict[str, Any] = {
        "max_model_len": student.max_model_len,
        "dtype": student.dtype,
        "trust_remote_code": student.trust_remote_code,
        "tensor_parallel_size": replicas.tensor_parallel,
        # Nobody reads them, and they are counted for every token.
        "disable_log_stats": True,
    }
    if model == student.model and student.revision:
        arguments |= {"revision": student.revision, "tokenizer_revision": student.revision}
    if replicas.gpus == 0:
        arguments |= {"enforce_eager": True, **WHOLE_PROMPTS}
        if replicas.tensor_parallel == 1:
            arguments["distributed_executor_backend"] = ON_CPUS
    return {**arguments, **student.engine_kwargs}


def generate(
    rows: ray.data.Dataset,
    model: str,
    student: Student,
    replicas: Replicas,
    transform_cpus: float,
    random_seed: int,
    processes: str | None = None,
    keep: Callable[[], AnswerLog] | None = None,
    board: Any | None = None,
    samples: int = 0,
    temperature: float = 1.0,
) -> ray.data.Dataset:
    """The rows with `student_response` and `finish_reason` (`stop` or `length`).

    With `samples`, rows that are not of the holdout also have as many sampled answers at `temperature` in
    `student_samples`, asked for together with the first.

    Thoughts before an answer are left out by `student.thinking_marks`; a row whose thoughts were not finished fails.

    The engine's processes end with their worker, and are recorded in the folder `processes` in case they do not. With
    `keep`, called by each worker, an answer is kept when it is made, before the others of its batch are. The workers
    tell `board`, an actor of `EngineBoard`, how their engines start and answer.

    A prompt that leaves no room for an answer is filtered as `prompt_too_long`, a conversation that the chat template
    does not take as `template_refused: …`, a control token that cannot be text as `special_token`; an error of the
    engine on one row is a failed row with the engine's message.
    """
    bundle = {"CPU": replicas.cpus}
    if replicas.gpus:
        bundle["GPU"] = replicas.gpus
    # As many as it can answer at once wait in the worker: where all end together, the next ones begin together.
    in_hand = 2 * student.engine_kwargs.get("max_num_seqs", MOST_AT_ONCE)
    batches = max(2, math.ceil(in_hand / student.batch_size))
    # A task for each engine keeps it busy, and every further one would load a tokenizer with all that it imports.
    few: dict[str, Any] = {"num_cpus": transform_cpus, "concurrency": replicas.replicas}
    config = vLLMEngineProcessorConfig(
        # A path that is here too: Ray reads the model's config in this process.
        model_source=local(model),
        engine_kwargs=engine_arguments(model, student, replicas),
        concurrency=(replicas.fewest, replicas.replicas),
        batch_size=student.batch_size,
        max_concurrent_batches=batches,
        # All of them wait in the engine: by default Ray keeps back what is above 1.1 times what it answers at once.
        max_pending_requests=batches * student.batch_size,
        should_continue_on_error=True,
        log_engine_metrics=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        accelerator_type=replicas.accelerator_type,
        placement_group_config={"bundle_per_worker": bundle},
        runtime_env={"env_vars": engine_environment(replicas, processes, model)},
    )
    columns = rows.columns()
    if not columns:
        raise ValueError("generate: the rows have no columns")
    rows = small_blocks(rows, student.batch_size, transform_cpus)
    prompt = functools.partial(
        tokenised, model=model, student=student, random_seed=random_seed, samples=samples, temperature=temperature
    )
    processor = build_processor(config, prompt, preprocess_map_kwargs=few)
    stage = processor.get_stage_by_name("vLLMEngineStage")
    engine = type(stage.fn.__name__, (Asking if keep is None else Keeping, stage.fn), {})
    arguments = {
        **stage.fn_constructor_kwargs,
        **({} if keep is None else {"keep": keep}),
        "collect": functools.partial(collect, columns=columns, marks=student.thinking_marks),
        "replicas": replicas,
        "board": board,
    }
    # A copy is not validated; to set the fields would derive the GPUs again, from what is no longer there.
    processor.stages["vLLMEngineStage"] = stage.model_copy(update={"fn": engine, "fn_constructor_kwargs": arguments})
    # The engine's worker gives the rows as they shall be.
    processor.postprocess = None
    return processor(rows)


def engine_environment(replicas: Replicas, processes: str | None, model: str) -> dict[str, str]:
    environment = {"VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
    if replicas.gpus == 0:
        environment["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")
    if is_remote(model):
        environment |= {MODEL: model, FOLDER: str(folder())}
    if processes is not None:
        environment[watchdog.PROCESSES] = processes
    return environment
