"""What a training worker does: DeepSpeed over packed sequences, response tokens only in the loss.

    TorchTrainer(train_worker, train_loop_config=asdict(work), …)    (by train/student.py)

A global batch is a fixed range of sequence indices whatever the number of workers, and its loss is the sum of the
cross-entropy over its response tokens divided by their number, so workers and micro-batches do not change the steps.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from tapir_ray.config import Student, Train
from tapir_ray.errors import StageError
from tapir_ray.models import local
from tapir_ray.train.batches import EMPTY, PackedReader, collate, micro_batch_size, micro_batches
from tapir_ray.train.chat import IGNORED, load_tokenizer, stop_token_ids
from tapir_ray.train.checkpoint import Done, restore, save

RESULT_FILE = "train_result.json"
"""In the HF folder: what `TrainResult` holds, with the loss of every step."""
ERROR_FILE = "tapir_error.txt"
"""Alone in a checkpoint: the sentence of an error that would come again, for which Ray Train must not train again."""


@dataclass(frozen=True)
class Work:
    """What every worker is told."""

    packed_dir: str
    fs: pafs.FileSystem
    init_model: str
    student: Student
    train: Train
    learning_rate: float
    epochs: int
    random_seed: int
    progress: Any
    """Actor with `put(dict)`, or None."""


def learning_rate_at(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Learning rate of step `step` (from 0) of `steps`: linear warm-up to `peak`, then a cosine towards 0."""
    warmup = math.ceil(steps * warmup_share)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def deepspeed_config(train: Train, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration; the loss arrives scaled, so the batch sizes only have to agree with each other."""
    micro = micro_batch_size(train, world)
    config: dict[str, Any] = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": train.global_batch // world // micro,
        "gradient_clipping": train.gradient_clipping,
        "zero_optimization": {"stage": train.zero_stage},
        "bf16": {"enabled": train.precision == "bfloat16"},
        "steps_per_print": 10**9,
    }
    if train.zero_stage == 3:
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    return config


def train_worker(config: dict[str, Any]) -> None:
    """Train, from the last checkpoint if there is one; at its end rank 0 reports the HF folder with RESULT_FILE.

    Where the loss or the gradients are not finite the sentence that names the step is reported, in `ERROR_FILE`.
    """
    import ray.train

    work: Work = config["work"]
    first = ray.train.get_context().get_world_rank() == 0
    checkpoint = ray.train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else nullcontext() as earlier:
        if earlier and (Path(earlier) / RESULT_FILE).exists():
            ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(earlier) if first else None)
            return
        engine, device = _engine(work)
        done = restore(engine, Path(earlier)) if earlier else Done()
    try:
        result = _train(engine, device, work, done)
    except StageError as error:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / ERROR_FILE).write_text(str(error))
            ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder) if first else None)
        return
    with tempfile.TemporaryDirectory() as folder:
        _save(engine, work, folder, first)
        if first:
            (Path(folder) / RESULT_FILE).write_text(json.dumps(result))
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder) if first else None)


def _engine(work: Work) -> tuple[Any, Any]:
    import torch

    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import ray.train
    import ray.train.torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.utils.logging import disable_progress_bar

    deepspeed.utils.logger.setLevel(logging.WARNING)
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # Only for inference; it would be compiled here, which takes half a minute and leaves a lock behind when killed.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    context = ray.train.get_context()
    torch.manual_seed(work.random_seed)
    if torch.cuda.is_available():
        device = ray.train.torch.get_device()
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // context.get_local_world_size()))
    train, student = work.train, work.student
    config = deepspeed_config(train, context.get_world_size())
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    # While this lives transformers hands every weight out in pieces as it is read: no rank holds the whole model.
    in_pieces = HfDeepSpeedConfig(config) if train.zero_stage == 3 else None
    model: Any = AutoModelForCausalLM.from_pretrained(
        local(work.init_model),
        revision=student.revision if work.init_model == student.model else None,
        dtype=getattr(torch, train.precision),
        attn_implementation=train.attention,
        trust_remote_code=student.trust_remote_code,
    )
    del in_pieces
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    # A weight in pieces has no shape but the one that DeepSpeed notes.
    decayed = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) > 1]
    other = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": train.weight_decay}, {"params": other, "weight_decay": 0.0}],
        lr=work.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    engine, *_ = deepspeed.initialize(model=model.to(device), optimizer=optimizer, config=config)
    if train.zero_stage == 0:
        # In 16 bits it has taken a step without gradients by now; counted by Adam, that makes the first steps smaller.
        engine.optimizer.state.clear()
    return engine, device


def _train(engine: Any, device: Any, work: Work, done: Done) -> dict[str, Any]:
    """Go once through the packed table (it holds every epoch); what `TrainResult` needs, the same on every rank.

    Goes on after the steps that are `done`. Raises StageError naming the step whose loss or gradients are not finite.
    """
    import ray.train
    import torch

    from tapir_ray.train.loss import response_loss

    train = work.train
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    reader = PackedReader(work.packed_dir, work.fs)
    steps = math.ceil(reader.sequences / train.global_batch)
    micro = micro_batch_size(train, world)
    scale = world * (train.global_batch // world // micro)
    losses, tokens, response_tokens = done.losses, done.tokens, done.response_tokens
    saved = time.time()
    started = reported = saved - done.seconds
    for step in range(len(losses), steps):
        rate = learning_rate_at(step, steps, work.learning_rate, train.warmup_share)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        rows = list(micro_batches(reader, step, train.global_batch, rank, world, micro))
        counts = torch.tensor(
            [
                sum(int((row["labels"] != IGNORED).sum()) for part in rows for row in part),
                sum(len(row["labels"]) for part in rows for row in part if row is not EMPTY),
                # All ranks save after the same step: by the clock of the first.
                float(rank == 0 and time.time() - saved > 60 * train.checkpoint_minutes),
            ],
            dtype=torch.float64,
            device=device,
        )
        torch.distributed.all_reduce(counts)
        in_loss, seen, due = (int(count) for count in counts.tolist())
        total = torch.zeros((), dtype=torch.float64, device=device)
        for part in rows:
            batch = {name: t.to(device) for name, t in collate(part, train.attention == "flash_attention_2").items()}
            loss = response_loss(engine, batch)
            # DeepSpeed takes the mean over ranks and micro-batches; we want the sum over tokens of the global batch.
            engine.backward(loss * (scale / max(1, in_loss)))
            engine.step()
            total += loss.detach()
        torch.distributed.all_reduce(total)
        losses.append(total.item() / max(1, in_loss))
        # DeepSpeed leaves out a step with infinite gradients and goes on, with a loss that looks well.
        if not math.isfinite(losses[-1]) or engine.skipped_steps:
            what = "the gradients are not finite" if math.isfinite(losses[-1]) else f"the loss is {losses[-1]}"
            raise StageError(
                f"{what} at step {step + 1} of {steps} (learning rate {rate:.2e}, loss {losses[0]:.3f} at step 1): "
                "lower train.learning_rate, or set train.gradient_clipping or train.precision float32"
            )
        tokens += seen
        response_tokens += in_loss
        if work.progress is not None and rank == 0 and (time.time() - reported > 1.0 or step in (0, steps - 1)):
            reported = time.time()
            work.progress.put.remote(
                {
                    "step": step + 1,
                    "steps": steps,
                    "epoch": step * work.epochs // steps + 1,
                    "loss": losses[-1],
                    "learning_rate": rate,
                    "tokens": tokens,
                    "tokens_per_second": tokens / max(1e-9, reported - started),
                    "pid": os.getpid(),
                }
            )
        every = train.checkpoint_steps
        if step + 1 < steps and (due if every is None else (step + 1) % every == 0):
            save(engine, Done(losses, tokens, response_tokens, time.time() - started))
            saved = time.time()
    return {
        "steps": steps,
        "sequences": reader.sequences,
        "tokens": tokens,
        "response_tokens": response_tokens,
        "losses": losses,
        "started": started,
        "seconds": time.time() - started,
    }


def _save(engine: Any, work: Work, folder: str, first: bool) -> None:
    """Write the HF folder on rank 0; a collective call, because ZeRO-3 has the weights in pieces."""
    if work.train.zero_stage == 3:
        weights = engine._zero3_consolidated_16bit_state_dict()
    else:
        weights = engine.module.state_dict() if first else None
    if not first:
        return
    tokenizer = load_tokenizer(work.init_model, work.student)
    model = engine.module
    stops = stop_token_ids(tokenizer, work.student.chat_template_kwargs)
    model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
