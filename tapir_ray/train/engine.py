"""Creates the DeepSpeed engine of a student for a training, and exports the student as a HF folder.

    engine = make_engine(work, device)
    export(engine, work, folder, first=rank == 0)

Rank and number of workers come from `torch.distributed`, whose process group must exist. Does not depend on Ray.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from contextlib import nullcontext
from typing import Any

from tapir_ray.config import Student, Train
from tapir_ray.run.model_store import local
from tapir_ray.train.batches import micro_batch_size
from tapir_ray.train.chat import load_tokenizer, stop_token_ids
from tapir_ray.train.export_check import try_export
from tapir_ray.train.generation import adapt
from tapir_ray.train.host_memory import given_back
from tapir_ray.train.lora import FOLDER, merged, save_adapter, with_adapter
from tapir_ray.train.model_config import check_trained
from tapir_ray.train.weights import load_student
from tapir_ray.train.work import Work

PROCESSOR = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files of a model that also takes images. An engine reads them at its start even if it will get text alone."""
BUCKET = 5 * 10**7
"""Numbers that workers exchange at once: each exchange holds a buffer of this size, 100 MB in bfloat16. The default is
10 times as large."""
LIVE = 2 * 10**8
"""Weights that ZeRO-3 gathers at a time for the layers in use, 400 MB in bfloat16. The default of 10**9 would hold a
small student completely."""


def deepspeed_config(train: Train, world: int) -> dict[str, Any]:
    """The config of DeepSpeed. The training loop scales the loss, so the batch sizes need only be consistent."""
    micro = micro_batch_size(train, world)
    config: dict[str, Any] = {
        "train_batch_size": train.global_batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": train.global_batch_size // world // micro,
        "gradient_clipping": train.max_grad_norm,
        "zero_optimization": {
            "stage": stage_of(train, world),
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
        },
        "bf16": {"enabled": train.precision == "bfloat16"},
        "steps_per_print": 10**9,  # never
    }
    if train.precision == "bfloat16" and train.zero_stage >= 2 and config["gradient_accumulation_steps"] > 1:
        # By default gradients accumulate in 16 bits, which loses precision with every micro-batch. Not at stage 1, for
        # which this option selects another optimizer, nor at stage 0, which has no optimizer that supports it.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if train.zero_stage == 3:
        config["zero_optimization"] |= {
            "stage3_gather_16bit_weights_on_model_save": True,
            "stage3_max_live_parameters": LIVE,
            "stage3_max_reuse_distance": LIVE,
        }
    return config


def stage_of(train: Train, world: int) -> int:
    """The ZeRO stage of a training by `world` workers: `train.zero_stage`, or 0 for a single worker in float32.

    A single worker has nobody to share optimizer and gradients with; stages 1 and 2 would only copy them.
    """
    # Not in 16 bits, where DeepSpeed has another optimizer for stage 0, nor at stage 3, which loads weights in pieces.
    alone = world == 1 and train.precision == "float32" and train.zero_stage < 3
    return 0 if alone else train.zero_stage


def make_engine(work: Work, device: Any) -> Any:
    """A DeepSpeed engine on `device` with the initial model and AdamW over its trainable weights.

    Raises InputError if the model cannot be trained as the config says (`check_trained`), lacks weights
    (`load_student`), or could not be exported afterwards (`try_export`).
    """
    check_trained(work.student, work.train, work.base_model or work.init_model)
    _deepspeed(device)
    import torch
    from torch import distributed
    from transformers.integrations import HfDeepSpeedConfig

    torch.manual_seed(work.random_seed)
    train, student = work.train, work.student
    start = work.base_model or work.init_model
    config = deepspeed_config(train, distributed.get_world_size())
    # While this object exists, transformers partitions each weight as it is read, so no rank holds the whole model.
    in_pieces = HfDeepSpeedConfig(config) if train.zero_stage == 3 else None
    with given_back() if in_pieces else nullcontext():
        model: Any = load_student(
            start, student, dtype=getattr(torch, train.precision), attn_implementation=train.attention
        )
    del in_pieces
    left_out = try_export(model, load_tokenizer(work.init_model, student), work.init_model, student)
    if left_out and distributed.get_rank() == 0:
        logging.getLogger(__name__).warning(
            "the student is written without %s: these keys of its generation_config.json have no effect",
            ", ".join(left_out),
        )
    return engine_of(model, work, device)


def engine_of(model: Any, work: Work, device: Any, fused: bool = True) -> Any:
    """The engine of a model in memory, with the adapter of `work`, if any; `fused` selects torch's fused AdamW."""
    import torch
    from torch import distributed

    from tapir_ray.train.packed_attention import attend_apart

    deepspeed = _deepspeed(device)
    train = work.train
    config = deepspeed_config(train, distributed.get_world_size())
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if train.lora is not None:
        model = with_adapter(model, train.lora, f"{local(work.init_model)}/{FOLDER}" if work.base_model else None)
    if train.packing and train.attention == "sdpa" and device.type == "cpu":
        attend_apart(model)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    # A weight that ZeRO-3 has partitioned is empty; DeepSpeed keeps its shape in `ds_shape`.
    decayed = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) > 1]
    other = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=work.learning_rate,
        betas=(0.9, 0.95),
        fused=fused,
    )
    engine, *_ = deepspeed.initialize(model=model.to(device), optimizer=optimizer, config=config)
    if config["zero_optimization"]["stage"] == 0:
        # In 16 bits DeepSpeed has taken a step without gradients; counted by Adam, it would shrink the first steps.
        engine.optimizer.state.clear()
    return engine


def _deepspeed(device: Any) -> Any:
    """The deepspeed module for this kind of device, with quiet logging, on the existing process group."""
    # Before the first import, which fixes the accelerator.
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed
    from torch import distributed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # This op is only for inference. It would be compiled now, which takes half a minute, and a kill would leave a lock.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed


def export(engine: Any, work: Work, folder: str, first: bool) -> None:
    """Writes the HF folder on rank 0. A collective call, because ZeRO-3 gathers the weights from all ranks."""
    lora = work.train.lora
    adapter = merged(engine) if lora is not None else None
    if work.train.zero_stage == 3:
        weights = engine._zero3_consolidated_16bit_state_dict()
    else:
        weights = engine.module.state_dict() if first else None
    if not first:
        return
    tokenizer = load_tokenizer(work.init_model, work.student)
    model = engine.module
    adapt(model.generation_config, tokenizer, stop_token_ids(tokenizer, work.student.chat_template_kwargs))
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    if model.config.get_text_config() is not model.config:
        copy_processor(work.init_model, work.student, folder)
    if lora is not None and adapter is not None and lora.between_rounds == "continue":
        save_adapter(adapter, folder, work.base_model or work.init_model)


def copy_processor(model: str, student: Student, folder: str) -> None:
    """Copies the PROCESSOR files of `model`, if it has any, to a folder."""
    from transformers.utils import cached_file

    for name in PROCESSOR:
        file = cached_file(
            local(model),
            name,
            revision=student.revision if model == student.model else None,
            _raise_exceptions_for_missing_entries=False,
        )
        if file is not None:
            shutil.copyfile(file, f"{folder}/{name}")
