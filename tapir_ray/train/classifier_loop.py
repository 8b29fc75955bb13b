"""Training loop of the task classifier, which Ray Train runs on every worker.

Started by `tapir_ray.train.classifier.train_classifier`. All random choices come from the seed of the job, and each
global batch is split among the workers: their number changes the speed, not the steps.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import pyarrow.dataset as pads
from pyarrow import fs as pafs

from tapir_ray.config import Classify
from tapir_ray.data import schemas

if TYPE_CHECKING:
    import torch

SORTED_BATCHES = 50
"""Number of batches whose rows are sorted by length together: enough for little padding, and few enough that the
batches of two epochs differ."""


@dataclass(frozen=True)
class Job:
    """Input of a worker: files with the labelled rows, the base model, the labels and the settings."""

    files: tuple[str, ...]
    filesystem: pafs.FileSystem
    base_model: str
    labels: tuple[str, ...]
    classify: Classify
    threads: int
    gpu: bool
    random_seed: int


@dataclass(frozen=True)
class Labelled:
    """A labelled instruction."""

    instruction_id: str
    text: str
    label: str


def read_labelled(files: Sequence[str], filesystem: pafs.FileSystem) -> list[Labelled]:
    """The rows with a task and with status ok or none, each instruction once, sorted by id."""
    usable = pads.field("task").is_valid() & (pads.field("status").is_null() | (pads.field("status") == schemas.OK))
    table = pads.dataset(list(files), format="parquet", filesystem=filesystem).to_table(
        columns=["instruction_id", "messages", "task"], filter=usable
    )
    rows = {
        row["instruction_id"]: Labelled(row["instruction_id"], schemas.text_of(row["messages"]), row["task"])
        for row in table.to_pylist()
    }
    return [rows[row_id] for row_id in sorted(rows)]


def held_rows(rows: int, share: float) -> int:
    """The number of held-out rows for a label with `rows` rows; at least 1 of 4 or more, unless `share` is 0."""
    return max(round(share * rows), int(share > 0 and rows >= 4))


def hold_out(rows: Sequence[Labelled], share: float, random_seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """(training part, held-out part): holds out the `held_rows` rows of each label with the smallest hashes."""
    by_label = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    held: set[str] = set()
    for members in by_label.values():
        members.sort(key=lambda row: schemas.order_key(row.instruction_id, random_seed, "classifier_holdout"))
        held.update(row.instruction_id for row in members[: held_rows(len(members), share)])
    training = [row for row in rows if row.instruction_id not in held]
    return training, [row for row in rows if row.instruction_id in held]


def batches_by_length(lengths: Sequence[int], batch_size: int, workers: int, seed: int) -> list[list[int]]:
    """One epoch: the index of every row once, in batches of rows of similar length, in random order.

    Batches have at most `batch_size` rows and nearly equal sizes. Each has at least one row for every worker, if there
    are as many rows as workers.
    """
    random_numbers = random.Random(seed)
    order = list(range(len(lengths)))
    random_numbers.shuffle(order)
    chunk = SORTED_BATCHES * batch_size
    for start in range(0, len(order), chunk):
        order[start : start + chunk] = sorted(order[start : start + chunk], key=lambda index: lengths[index])
    count = max(1, min(math.ceil(len(order) / batch_size), len(order) // workers))
    edges = [len(order) * number // count for number in range(count + 1)]
    batches = [order[start:end] for start, end in pairwise(edges)]
    random_numbers.shuffle(batches)
    return batches


def class_weights(labels: Sequence[str], power: float) -> dict[str, float]:
    """Weight in the loss of a row of each label: (1 / rows of the label)^power, scaled to mean 1 over all rows.

    The formula is our decision. `class_weights(["a", "a", "b"], 1.0)` is {"a": 0.75, "b": 1.5}.
    """
    counts = Counter(labels)
    raw = {label: (1.0 / count) ** power for label, count in counts.items()}
    mean = sum(raw[label] * count for label, count in counts.items()) / len(labels)
    return {label: weight / mean for label, weight in raw.items()}


def rate_factor(step: int, steps: int, warmup_ratio: float) -> float:
    """Factor of the peak learning rate at `step` (from 0): linear warm-up, then linear decay to 0."""
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


def train_worker(config: dict[str, Any]) -> None:
    """Fine-tunes the model of `config["job"]`. Reports the loss after the first step and each epoch, then the model.

    Rank 0 reports the model as a checkpoint. The last report has `pairs`, a list of [true label, predicted label, rows]
    over the held-out part; `train_rows`; and `first_step_at`, the time at the end of the first step (seconds since the
    epoch).
    """
    job: Job = config["job"]
    settings = job.classify
    import ray.train
    import ray.train.torch
    import torch

    from tapir_ray.train.sequence_classifier import SequenceClassifier

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    training, held = hold_out(read_labelled(job.files, job.filesystem), settings.holdout_share, job.random_seed)
    torch.manual_seed(job.random_seed)
    classifier = SequenceClassifier(
        job.base_model,
        max_length=settings.max_length,
        labels=job.labels,
        threads=job.threads,
        gpu=job.gpu,
        trust_remote_code=settings.trust_remote_code,
    )
    model = ray.train.torch.prepare_model(classifier.model)
    # The same seed above gives every rank the same new head; other seeds from here on give it its own dropout masks.
    torch.manual_seed(job.random_seed + rank)

    encoded = classifier.encode([row.text for row in training])
    number = {label: index for index, label in enumerate(job.labels)}
    targets = [number[row.label] for row in training]
    weights = class_weights([row.label for row in training], settings.class_weight_power)
    row_weights = [weights[row.label] for row in training]
    epochs = [
        batches_by_length([len(ids) for ids in encoded], settings.train_batch_size, workers, job.random_seed + epoch)
        for epoch in range(settings.epochs)
    ]
    steps = sum(len(batches) for batches in epochs)
    optimizer = torch.optim.AdamW(_decayed(model, settings.weight_decay), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor(step, steps, settings.warmup_ratio)
    )

    # Ray Train takes one report every two seconds from a worker and blocks on the next, so reports are few.
    reports = {1} | set(accumulate(len(batches) for batches in epochs))
    first_step_at, loss_sum, loss_steps = 0.0, 0.0, 0
    model.train()
    for step, (epoch, batch) in enumerate(
        ((e, batch) for e, batches in enumerate(epochs) for batch in batches), start=1
    ):
        mine = batch[rank::workers]
        logits_BC = model(**classifier.pad([encoded[index] for index in mine])).logits
        loss_B = torch.nn.functional.cross_entropy(
            logits_BC, torch.tensor([targets[index] for index in mine], device=classifier.device), reduction="none"
        )
        weight_B = torch.tensor([row_weights[index] for index in mine], device=classifier.device)
        # DDP averages gradients over the workers; times their number this is the weighted mean over the global batch.
        loss = (loss_B * weight_B).sum() * workers / sum(row_weights[index] for index in batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        loss_sum, loss_steps = loss_sum + loss.item(), loss_steps + 1
        if step == 1:
            first_step_at = time.time()
        if step in reports:
            ray.train.report({"step": step, "steps": steps, "epoch": epoch, "loss": loss_sum / loss_steps})
            loss_sum, loss_steps = 0.0, 0

    outputs, _ = classifier.predict(classifier.encode([row.text for row in held[rank::workers]]), settings.batch_size)
    pairs = Counter((row.label, job.labels[output]) for row, output in zip(held[rank::workers], outputs, strict=True))
    pairs = _sum_over_workers(pairs, workers)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            classifier.model.save_pretrained(folder)
            classifier.tokenizer.save_pretrained(folder)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(
            {
                "step": steps,
                "steps": steps,
                "train_rows": len(training),
                "pairs": [[true, predicted, count] for (true, predicted), count in pairs.items()],
                "first_step_at": first_step_at,
            },
            checkpoint=checkpoint,
            # With ASYNC the last checkpoint is lost if the worker is killed during the upload.
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.SYNC,
        )


def _decayed(model: torch.nn.Module, weight_decay: float) -> Iterator[dict[str, Any]]:
    """Parameter groups: weight decay for matrices, none for biases and normalisation weights."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    yield {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay}
    yield {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}


def _sum_over_workers(counts: Counter[tuple[str, str]], workers: int) -> Counter[tuple[str, str]]:
    if workers == 1:
        return counts
    import torch.distributed

    gathered: list[Any] = [None] * workers
    torch.distributed.all_gather_object(gathered, counts)
    return sum(gathered, Counter())
