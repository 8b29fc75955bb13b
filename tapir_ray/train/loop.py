"""Training loop of a worker: DeepSpeed over packed sequences, with only response tokens in the loss.

    TorchTrainer(train_worker, train_loop_config={"work": work}, …)    # by train/student.py

A global batch is a fixed range of sequence indices. Its loss is the sum of the cross-entropy over its response tokens
divided by their number. So the number of workers and the size of micro-batches do not change the steps.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from tapir_ray.config import Train
from tapir_ray.errors import InputError, StageError
from tapir_ray.train.batches import EMPTY, PackedReader, collate, in_one_row, micro_batch_size, micro_batches
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.checkpoint import Done, restore, save
from tapir_ray.train.cross_contamination import check_kept_apart
from tapir_ray.train.divergence import Diverged, Health
from tapir_ray.train.engine import export, make_engine
from tapir_ray.train.holdout import mean_loss, mean_of, pair_losses
from tapir_ray.train.loss import response_loss
from tapir_ray.train.work import Work

RESULT_FILE = "train_result.json"
"""File in the HF folder with the fields of `TrainResult`, including the loss of every step."""
ERROR_FILE = "tapir_error.json"
"""File in the folder of a training with an error that a retry by Ray Train would only repeat. `error` is the message,
`good` the number of steps after which the weights were still good (null for an error unrelated to them)."""
NAMED_PAIRS = 8
"""Most pairs of a bad batch that an error lists."""


def learning_rate_at(step: int, steps: int, peak: float, warmup_ratio: float) -> float:
    """Learning rate at step `step` (from 0) of `steps`: linear warm-up to `peak`, then cosine decay towards 0."""
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def rate_of_work(step: int, steps: int, work: Work) -> float:
    """Learning rate at step `step` (from 0) of the `steps` steps of a training, by its part of the schedule.

    The rounds before and after count with as many steps as this one. So step s of S in round r of R is at
    ((r − 1) + s / S) / R of the schedule, and the rate depends on no other training.
    """
    before, parts = (work.schedule_part - 1) * steps, work.schedule_parts
    return learning_rate_at(before + step, parts * steps, work.learning_rate, work.train.warmup_ratio)


def dropout_seed(random_seed: int, step: int, rank: int) -> int:
    """Seed for the random numbers of a step on a rank: differs between ranks, and is the same after a resume."""
    return int(np.random.SeedSequence((random_seed, step, rank)).generate_state(1, np.uint64)[0])


def train_worker(config: dict[str, Any]) -> None:
    """Trains the student, from the last checkpoint if it exists; at the end rank 0 reports the HF folder.

    An InputError or StageError is written to ERROR_FILE and nothing is reported: a model that cannot be trained
    (`check_trained`), or a divergence, with its step and pairs.
    """
    import ray.train

    work: Work = config["work"]
    first = ray.train.get_context().get_world_rank() == 0
    checkpoint = ray.train.get_checkpoint()
    try:
        with checkpoint.as_directory() if checkpoint else nullcontext() as earlier:
            # The training was complete when a worker was lost; the finished folder is reported again.
            if earlier and (Path(earlier) / RESULT_FILE).exists():
                result = json.loads((Path(earlier) / RESULT_FILE).read_text())
                _report(Done(result["losses"], holdout_losses=result["holdout_losses"]), earlier if first else None)
                return
            device = _device()
            engine = make_engine(work, device)
            done = restore(engine, Path(earlier)) if earlier else Done()
        result = _train(engine, device, work, done)
    except (InputError, StageError) as error:
        if first:
            left = {"error": str(error), "good": error.good if isinstance(error, Diverged) else None}
            with work.fs.open_output_stream(f"{work.storage_dir}/{ERROR_FILE}") as stream:
                stream.write(json.dumps(left).encode())
        return
    with tempfile.TemporaryDirectory() as folder:
        export(engine, work, folder, first)
        if first:
            (Path(folder) / RESULT_FILE).write_text(json.dumps(result))
        _report(done, folder if first else None)


def _device() -> Any:
    """The device of this worker. On CPUs, sets torch's number of threads to the worker's share of the machine."""
    import ray.train
    import ray.train.torch
    import torch

    if torch.cuda.is_available():
        device = ray.train.torch.get_device()
        torch.cuda.set_device(device)
        return device
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ray.train.get_context().get_local_world_size()))
    return torch.device("cpu")


def _report(done: Done, folder: str | None) -> None:
    import ray.train

    checkpoint = ray.train.Checkpoint.from_directory(folder) if folder else None
    ray.train.report(done.metrics(), checkpoint=checkpoint)


def _train(engine: Any, device: Any, work: Work, done: Done) -> dict[str, Any]:
    """Trains once through the packed table, which holds all epochs; returns the fields of `TrainResult`.

    Continues after the steps in `done`. The result is the same on every rank. Raises Diverged, which names the step, if
    the training diverges, also if the new weights have no finite loss at a checkpoint or at the end.
    """
    import torch
    from torch import distributed

    train = work.train
    rank, world = distributed.get_rank(), distributed.get_world_size()
    reader = PackedReader(work.packed_dir, work.fs)
    held = PackedReader(work.holdout_dir, work.fs) if work.holdout_dir else None
    steps = math.ceil(reader.sequences / train.global_batch_size)
    micro, one_row = micro_batch_size(train, world), in_one_row(train)
    # DeepSpeed divides by ranks and micro-batches; multiplied by their number, the loss is a sum again.
    scale = world * (train.global_batch_size // world // micro)
    health = Health(train.max_loss_rise)
    for number in range(len(done.losses)):
        health.look(done.losses[: number + 1])
    if train.packing:
        check_kept_apart(engine, device, reader, one_row, work.init_model)
    if held is not None and not done.losses:
        done.holdout_pairs_before = pair_losses(engine, device, held, train)
        before = mean_of(done.holdout_pairs_before)
        if not math.isfinite(before):
            raise Diverged(
                f"the holdout loss is {before} before the first step: train another student.model than "
                f"{work.init_model}, or with train.precision float32",
                good=0,
            )
        done.holdout_losses.append([0, before])
    pairs: dict[str, tuple[float, int]] = {}
    # Only `started` is wall-clock time, for another process. Durations use the monotonic clock, which is never set.
    started, saved = time.time(), time.monotonic()
    reported = began = saved - done.seconds
    new_steps: list[dict[str, float]] = []
    for step in range(len(done.losses), steps):
        rate = rate_of_work(step, steps, work)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        rows = list(micro_batches(reader, step, train.global_batch_size, rank, world, micro))
        counts = torch.tensor(
            [
                sum(int((row["labels"] != IGNORED).sum()) for part in rows for row in part),
                sum(len(row["labels"]) for part in rows for row in part if row is not EMPTY),
                # All ranks must save after the same step, so the clock of rank 0 decides.
                float(rank == 0 and time.monotonic() - saved > 60 * train.checkpoint_minutes),
            ],
            dtype=torch.float64,
            device=device,
        )
        distributed.all_reduce(counts)
        in_loss, seen, due = (int(count) for count in counts.tolist())
        total = torch.zeros((), dtype=torch.float64, device=device)
        # For dropout; the same after a resume.
        torch.manual_seed(dropout_seed(work.random_seed, step, rank))
        for part in rows:
            batch = {name: t.to(device) for name, t in collate(part, one_row).items()}
            loss = response_loss(engine, batch)
            # The mean over the response tokens of the global batch, not of each rank or micro-batch.
            engine.backward(loss * (scale / max(1, in_loss)))
            engine.step()
            total += loss.detach()
        distributed.all_reduce(total)
        done.losses.append(total.item() / max(1, in_loss))
        # DeepSpeed skips a step with infinite gradients and continues, with a loss that looks normal.
        if wrong := health.look(done.losses, finite_gradients=not engine.skipped_steps):
            raise _gone_wrong(wrong, done, steps, rate, reader, train, health.good)
        done.tokens += seen
        done.response_tokens += in_loss
        done.seconds = time.monotonic() - began
        new_steps.append({"step": step, "loss": done.losses[-1], "learning_rate": rate})
        # At most one message a second, whatever the length of a step.
        if work.progress is not None and rank == 0 and (time.monotonic() - reported > 1.0 or step in (0, steps - 1)):
            reported = time.monotonic()
            work.progress.put.remote(
                {
                    "step": step + 1,
                    "steps": steps,
                    "epoch": step * work.epochs // steps + 1,
                    "loss": done.losses[-1],
                    "learning_rate": rate,
                    "tokens": done.tokens,
                    "tokens_per_second": done.tokens / max(1e-9, reported - began),
                    "pid": os.getpid(),
                    "new_steps": new_steps,
                    "holdout_losses": list(done.holdout_losses),
                }
            )
            new_steps = []
        every = train.checkpoint_steps
        last = step + 1 == steps
        if last or (due if every is None else (step + 1) % every == 0):
            # The losses so far are of weights before this step, so those after it must be evaluated before saving them.
            if held is not None:
                pairs = pair_losses(engine, device, held, train)
                name, now = "holdout loss", mean_of(pairs)
                done.holdout_losses.append([step + 1, now])
            else:
                name, now = "loss after the update", mean_loss(engine, device, rows[:1], train)
            if not math.isfinite(now):
                raise _gone_wrong(f"the {name} is {now}", done, steps, rate, reader, train, good=step)
            if not last:
                save(engine, done)
                saved = time.monotonic()
    return {
        "steps": steps,
        "sequences": reader.sequences,
        "tokens": done.tokens,
        "response_tokens": done.response_tokens,
        "losses": done.losses,
        "holdout_losses": done.holdout_losses,
        "holdout_pairs_before": done.holdout_pairs_before,
        "holdout_pairs": pairs,
        "started": started,
        "seconds": done.seconds,
    }


def _gone_wrong(
    wrong: str, done: Done, steps: int, rate: float, reader: PackedReader, train: Train, good: int
) -> Diverged:
    """The error of a training that diverged at its last completed step, with advice and the pairs of that step."""
    number = len(done.losses)
    pairs = reader.pair_ids(range((number - 1) * train.global_batch_size, number * train.global_batch_size))
    others = f" and {len(pairs) - NAMED_PAIRS} more" if len(pairs) > NAMED_PAIRS else ""
    return Diverged(
        f"{wrong} at step {number} of {steps} (learning rate {rate:.2e}, loss {done.losses[0]:.3f} at step 1): lower "
        "train.learning_rate (for the rounds only: train.round_learning_rate), or set train.max_grad_norm or "
        "train.precision float32, and start with another --run-dir and --fork of this run, which keeps the cached "
        "replies and all tables from before the first training that this changes; "
        f"the step's pairs are {', '.join(pairs[:NAMED_PAIRS])}{others}",
        good,
    )
