"""Batched vLLM engine for the student inside a Ray Data pipeline (`ray.data.llm`).

    rows = generate(rows, "runs/demo/checkpoints/01", config.student, config.resources.student, ...)

Prompts are rendered and tokenised by the function that training uses, so the student gets exactly the tokens that it
was trained on. The engine lives as long as the pipeline: it ends when the table is written.
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
from tapir_ray.llm.row_sampling import sampling_of_row
from tapir_ray.run.answer_log import AnswerLog
from tapir_ray.run.model_store import FOLDER, MODEL, folder, local
from tapir_ray.train.chat import encode_prompt, shared_stop_token_ids, shared_tokenizer
from tapir_ray.train.control_tokens import RowRefused

TOO_LONG = "prompt_too_long"
MOST_AT_ONCE = 1024
"""Most sequences that an engine answers at once if `max_num_seqs` is not set: vLLM's own number for large GPUs."""
ON_CPUS = "tapir_ray.llm.engine.cpu_executor.OneProcess"
"""Class of the executor, by its name because this process does not import vLLM."""
WHOLE_PROMPTS = {"enable_chunked_prefill": False}
"""Engine arguments on CPUs: there vLLM 0.29 crashes if a prompt with a seed and a temperature is read in two steps."""


def tokenised(
    row: dict[str, Any], model: str, student: Student, random_seed: int, samples: int = 0, temperature: float = 1.0
) -> dict[str, Any]:
    """Returns the row with `tokenized_prompt`, `sampling_params`, `max_tokens` and `stop_token_ids` for the engine.

    The columns `samples` and `sample_temperature` ask for further answers; a row of the holdout has 0 samples. The
    columns of `row_sampling` replace the student's sampling.

    A row that cannot be answered has its reason in `unasked` (else ""). Its prompt is one token, since every row passes
    through the engine.
    """
    sampling, tokenizer = sampling_of_row(row, student.sampling), shared_tokenizer(model, student)
    row["unasked"] = ""
    try:
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
    """Returns the rows with `student_response` and `finish_reason` (`stop` or `length`): a lazy dataset.

    With `samples`, rows outside the holdout also get this number of answers, sampled at `temperature`, in
    `student_samples`. They are requested together with the first answer.

    The processes of the engine end with their worker. They are recorded in the folder `processes` in case they do not.
    With `keep`, which each worker calls, an answer is stored as soon as it is finished, before the rest of its batch.
    The workers report the state of their engines to `board`, an actor of `EngineBoard`.

    Rows without an answer:

    - filtered as `prompt_too_long`: the prompt leaves no room for an answer
    - filtered as `template_refused: …`: the chat template does not accept the conversation
    - filtered as `special_token`: a text has a control token that cannot be encoded as text
    - failed as `unfinished_thinking`: the thoughts (by `student.thinking_marks`, never part of an answer) did not end
    - failed with the engine's message: an error of the engine on this row

    Raises ValueError for a dataset without columns.
    """
    bundle = {"CPU": replicas.cpus}
    if replicas.gpus:
        bundle["GPU"] = replicas.gpus
    # Twice the sequences of the engine, so that the next prompts are in the worker when all answers end together.
    in_hand = 2 * student.engine_kwargs.get("max_num_seqs", MOST_AT_ONCE)
    batches = max(2, math.ceil(in_hand / student.batch_size))
    # One task per engine keeps it busy. Every further one would load the tokenizer and import transformers again.
    few: dict[str, Any] = {"num_cpus": transform_cpus, "concurrency": replicas.replicas}
    config = vLLMEngineProcessorConfig(
        # A local path, because Ray reads the model's config in the driver too.
        model_source=local(model),
        engine_kwargs=engine_arguments(model, student, replicas),
        concurrency=(replicas.fewest, replicas.replicas),
        batch_size=student.batch_size,
        max_concurrent_batches=batches,
        # All prompts in the worker go to the engine. By default Ray holds back those above 1.1 times its sequences.
        max_pending_requests=batches * student.batch_size,
        # An error of one row makes a failed row; without this it would end the pipeline.
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
    # `model_copy` does not validate. Assigned fields would, and derive the GPUs again from arguments already removed.
    processor.stages["vLLMEngineStage"] = stage.model_copy(update={"fn": engine, "fn_constructor_kwargs": arguments})
    # `Asking` already returns the final rows.
    processor.postprocess = None
    return processor(rows)


def engine_environment(replicas: Replicas, processes: str | None, model: str) -> dict[str, str]:
    """Returns the environment variables of an engine's worker."""
    environment = {"VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0")}
    if replicas.gpus == 0:
        # GiB. Without it vLLM takes a third of the memory of the node.
        environment["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")
    if is_remote(model):
        environment |= {MODEL: model, FOLDER: str(folder())}
    if processes is not None:
        environment[watchdog.PROCESSES] = processes
    return environment
