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
from tapir_ray.train.divergence import Health
from tapir_ray.train.holdout import holdout_loss
from tapir_ray.train.lora import FOLDER, merged, save_adapter, with_adapter
from tapir_ray.train.loss import response_loss

RESULT_FILE = "train_result.json"
"""In the HF folder: what `TrainResult` holds, with the loss of every step."""
ERROR_FILE = "tapir_error.txt"
"""In the folder of a training: the sentence of an error that would come again, for which Ray Train must not train
again."""
NAMED_PAIRS = 8
"""Pairs of a bad batch that an error names."""


@dataclass(frozen=True)
class Work:
    """What every worker is told."""

    packed_dir: str
    holdout_dir: str | None
    """The packed holdout, whose loss is watched."""
    storage_dir: str
    """Of this training alone."""
    fs: pafs.FileSystem
    init_model: str
    base_model: str | None
    """The model under the adapter of `init_model` that goes on; None trains `init_model` itself, or begins on it."""
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

    Where the loss or the gradients are not finite, or the loss explodes, the sentence that names the step, its pairs
    and the last good checkpoint is left in `ERROR_FILE`, and nothing is reported.
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
        if first:
            with work.fs.open_output_stream(f"{work.storage_dir}/{ERROR_FILE}") as stream:
                stream.write(str(error).encode())
        return
    with tempfile.TemporaryDirectory() as folder:
        _save(engine, work, folder, first)
        if first:
            (Path(folder) / RESULT_FILE).write_text(json.dumps(result))
        ray.train.report(done.metrics(), checkpoint=ray.train.Checkpoint.from_directory(folder) if first else None)


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
    start = work.base_model or work.init_model
    config = deepspeed_config(train, context.get_world_size())
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
    # While this lives transformers hands every weight out in pieces as it is read: no rank holds the whole model.
    in_pieces = HfDeepSpeedConfig(config) if train.zero_stage == 3 else None
    model: Any = AutoModelForCausalLM.from_pretrained(
        local(start),
        revision=student.revision if start == student.model else None,
        dtype=getattr(torch, train.precision),
        attn_implementation=train.attention,
        trust_remote_code=student.trust_remote_code,
    )
    del in_pieces
    if train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if train.lora is not None:
        model = with_adapter(model, train.lora, f"{local(work.init_model)}/{FOLDER}" if work.base_model else None)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    # A weight in pieces has no shape but the one that DeepSpeed notes.
    decayed = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) > 1]
    other = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
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

    Goes on after the steps that are `done`. Raises StageError naming the step at which the training went wrong.
    """
    import ray.train
    import torch

    train = work.train
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    reader = PackedReader(work.packed_dir, work.fs)
    held = PackedReader(work.holdout_dir, work.fs) if work.holdout_dir else None
    steps = math.ceil(reader.sequences / train.global_batch)
    micro = micro_batch_size(train, world)
    scale = world * (train.global_batch // world // micro)
    health = Health(train.max_loss_rise)
    for number in range(len(done.losses)):
        health.look(done.losses[: number + 1])
    if held is not None and not done.losses:
        done.holdout_losses.append([0, holdout_loss(engine, device, held, train)])
    saved = time.time()
    started = reported = saved - done.seconds
    for step in range(len(done.losses), steps):
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
        done.losses.append(total.item() / max(1, in_loss))
        # DeepSpeed leaves out a step with infinite gradients and goes on, with a loss that looks well.
        if wrong := health.look(done.losses, finite_gradients=not engine.skipped_steps):
            pairs = reader.pair_ids(range(step * train.global_batch, (step + 1) * train.global_batch))
            raise StageError(_gone_wrong(wrong, done, steps, rate, pairs, health.good))
        done.tokens += seen
        done.response_tokens += in_loss
        done.seconds = time.time() - started
        if work.progress is not None and rank == 0 and (time.time() - reported > 1.0 or step in (0, steps - 1)):
            reported = time.time()
            work.progress.put.remote(
                {
                    "step": step + 1,
                    "steps": steps,
                    "epoch": step * work.epochs // steps + 1,
                    "loss": done.losses[-1],
                    "learning_rate": rate,
                    "tokens": done.tokens,
                    "tokens_per_second": done.tokens / max(1e-9, reported - started),
                    "pid": os.getpid(),
                }
            )
        every = train.checkpoint_steps
        last = step + 1 == steps
        if last or (due if every is None else (step + 1) % every == 0):
            if held is not None:
                done.holdout_losses.append([step + 1, holdout_loss(engine, device, held, train)])
            if not last:
                save(engine, done)
                saved = time.time()
    return {
        "steps": steps,
        "sequences": reader.sequences,
        "tokens": done.tokens,
        "response_tokens": done.response_tokens,
        "losses": done.losses,
        "holdout_losses": done.holdout_losses,
        "started": started,
        "seconds": done.seconds,
    }


def _gone_wrong(wrong: str, done: Done, steps: int, rate: float, pairs: list[str], good: int) -> str:
    """The sentence of a training that cannot go on."""
    others = f" and {len(pairs) - NAMED_PAIRS} more" if len(pairs) > NAMED_PAIRS else ""
    kept = max((step for step in done.saved if step <= good), default=0)
    checkpoint = f"the last good checkpoint is that of step {kept}" if kept else "no checkpoint before it is good"
    where = f"at step {len(done.losses)} of {steps} (learning rate {rate:.2e}, loss {done.losses[0]:.3f} at step 1)"
    return (
        f"{wrong} {where}: lower train.learning_rate, or set train.gradient_clipping or train.precision float32; "
        f"the step's pairs are {', '.join(pairs[:NAMED_PAIRS])}{others}; {checkpoint}"
    )


def _save(engine: Any, work: Work, folder: str, first: bool) -> None:
    """Write the HF folder on rank 0; a collective call, because ZeRO-3 has the weights in pieces."""
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
    stops = stop_token_ids(tokenizer, work.student.chat_template_kwargs)
    model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    if lora is not None and adapter is not None and lora.between_rounds == "continue":
        save_adapter(adapter, folder, work.base_model or work.init_model)
