"""Batched vLLM engine for the student inside a Ray Data pipeline (`ray.data.llm`).

    rows = generate(rows, StudentWork("runs/demo/checkpoints/01", config.student, config.resources.student, …))

The engine lives as long as the pipeline: it ends when the table is written.
"""

from __future__ import annotations

import functools
from typing import Any

import ray.data
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from tapir_ray.cluster.ray_data import small_blocks
from tapir_ray.llm.engine.base import StudentWork
from tapir_ray.llm.engine.requests import asking, batches_at_once, engine_arguments, engine_environment, tokenised
from tapir_ray.llm.engine.worker import Asking, Keeping, collect
from tapir_ray.run.model_store import local


def generate(rows: ray.data.Dataset, work: StudentWork) -> ray.data.Dataset:
    """Returns the rows with `student_response` and `finish_reason` (`stop` or `length`): a lazy dataset.

    With `work.samples`, rows outside the holdout also get this number of answers, sampled at `work.temperature`, in
    `student_samples`. They are requested together with the first answer.

    The processes of the engine end with their worker. They are recorded in `work.processes` in case they do not.
    With `work.keep` an answer is stored as soon as it is finished, before the rest of its batch.

    Rows without an answer:

    - filtered as `prompt_too_long`: the prompt leaves no room for an answer
    - filtered as `template_refused: …`: the chat template does not accept the conversation
    - filtered as `special_token`: a text has a control token that cannot be encoded as text
    - failed as `unfinished_thinking`: the thoughts (by `student.thinking_marks`, never part of an answer) did not end
    - failed with the engine's message: an error of the engine on this row

    Raises ValueError for a dataset without columns.
    """
    model, student, replicas, keep = work.model, work.student, work.replicas, work.keep
    bundle = {"CPU": replicas.cpus}
    if replicas.gpus:
        bundle["GPU"] = replicas.gpus
    batches = batches_at_once(student)
    # One task per engine keeps it busy. Every further one would load the tokenizer and import transformers again.
    few: dict[str, Any] = {"num_cpus": work.transform_cpus, "concurrency": replicas.replicas}
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
        runtime_env={"env_vars": engine_environment(replicas, work.processes, model)},
    )
    columns = rows.columns()
    if not columns:
        raise ValueError("generate: the rows have no columns")
    rows = small_blocks(rows, student.batch_size, work.transform_cpus)
    processor = build_processor(config, functools.partial(tokenised, **asking(work)), preprocess_map_kwargs=few)
    stage = processor.get_stage_by_name("vLLMEngineStage")
    engine = type(stage.fn.__name__, (Asking, stage.fn) if keep is None else (Keeping, Asking, stage.fn), {})
    arguments = {
        **stage.fn_constructor_kwargs,
        **({} if keep is None else {"keep": keep}),
        "collect": functools.partial(collect, columns=columns, marks=student.thinking_marks),
        "replicas": replicas,
        "board": work.board,
    }
    # `model_copy` does not validate. Assigned fields would, and derive the GPUs again from arguments already removed.
    processor.stages["vLLMEngineStage"] = stage.model_copy(update={"fn": engine, "fn_constructor_kwargs": arguments})
    # `Asking` already returns the final rows.
    processor.postprocess = None
    return processor(rows)
