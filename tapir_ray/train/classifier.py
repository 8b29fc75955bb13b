"""Fine-tunes the task classifier with Ray Train, and measures its accuracy.

    report = train_classifier("RUN/labels", "microsoft/deberta-v3-base", labels, config.classify, config.resources,
                              out_dir="RUN/classifier/model", storage_dir="RUN/classifier/train", name="classifier")

Imports torch and Ray Train only when called. It keeps no state, so it can run in a thread while another training runs.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as pads
from pyarrow import fs as pafs

from tapir_ray.config import Classify, Resources
from tapir_ray.data import schemas
from tapir_ray.errors import InputError, StageError
from tapir_ray.run.model_store import replace
from tapir_ray.train.classifier_loop import held_rows
from tapir_ray.train.trainer import START_TRIES, cause_of, trainer_class


@dataclass(frozen=True)
class ClassifierReport:
    """Result of a fine-tuning: accuracy on held-out rows, row counts and times.

    `accuracy` and `macro_f1` are in 0..1 over the held-out rows; None without any. `confusion` is {true label:
    {predicted label: rows}}. `start_seconds` runs from the call to the end of the first step: the start of the workers.
    """

    rows: int
    train_rows: int
    holdout_rows: int
    accuracy: float | None
    macro_f1: float | None
    confusion: dict[str, dict[str, int]]
    per_label_f1: dict[str, float]
    seconds: float
    start_seconds: float
    folder: str

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


def measure(pairs: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """`holdout_rows`, `accuracy`, `macro_f1`, `confusion` and `per_label_f1` from {(true, predicted): rows}.

    F1 of a label = 2 · hits / (rows with the label + rows predicted as it). Macro-F1 is the unweighted mean over the
    labels that were true or predicted at least once.
    """
    counts = {pair: count for pair, count in pairs.items() if count}
    true, predicted = Counter[str](), Counter[str]()
    confusion: dict[str, dict[str, int]] = {}
    for (label, output), count in sorted(counts.items()):
        true[label] += count
        predicted[output] += count
        confusion.setdefault(label, {})[output] = count
    total = true.total()
    f1 = {
        label: 2 * counts.get((label, label), 0) / (true[label] + predicted[label])
        for label in sorted(true.keys() | predicted.keys())
    }
    return {
        "holdout_rows": total,
        "accuracy": sum(counts.get((label, label), 0) for label in true) / total if total else None,
        "macro_f1": sum(f1.values()) / len(f1) if f1 else None,
        "confusion": confusion,
        "per_label_f1": f1,
    }


def train_classifier(
    rows: str | Sequence[str],
    base_model: str,
    labels: Sequence[str],
    classify: Classify,
    resources: Resources,
    *,
    out_dir: str,
    storage_dir: str,
    name: str,
    random_seed: int = 0,
    fs: pafs.FileSystem | None = None,
) -> ClassifierReport:
    """Fine-tunes `base_model` (HF name or folder) on labelled rows and writes the HF folder `out_dir`.

    `rows` is a folder or a list of Parquet files with instruction_id, messages, task and status; only `ok` rows with a
    task count. The outputs of the model are all of `labels`, including those without a row. `storage_dir` holds the
    model between worker and driver, under a name that is unique to this attempt, and is cleaned up. All are paths on
    `fs`.

    Two rows with two labels are enough to train (our decision); the report then has no accuracy if nothing could be
    held out. Raises InputError for a task that is not in `labels`, StageError for too few rows or a failed training.
    """
    called, called_at = time.monotonic(), time.time()
    filesystem = fs or pafs.LocalFileSystem()
    if isinstance(filesystem, pafs.LocalFileSystem):
        out_dir, storage_dir = os.path.abspath(out_dir), os.path.abspath(storage_dir)
    base_model = os.path.abspath(base_model) if os.path.isdir(base_model) else base_model
    files = parquet_files(rows, filesystem)
    counts = count_labels(files, filesystem)
    _check(counts, labels, classify, resources.classifier.replicas)

    import ray.train
    import ray.train.torch
    from ray.train.v2.api.config import FailureConfig

    from tapir_ray.train.classifier_loop import Job, train_worker

    workers = resources.classifier
    claim = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus > 0 else {})
    job = Job(
        files=tuple(files),
        filesystem=filesystem,
        base_model=base_model,
        labels=tuple(labels),
        classify=classify,
        threads=max(1, int(workers.cpus)),
        gpu=workers.gpus > 0,
        random_seed=random_seed,
    )
    trainer = trainer_class()(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.replicas,
            use_gpu=workers.gpus > 0,
            resources_per_worker=claim,
            accelerator_type=workers.accelerator_type,
        ),
        # Workers that share a GPU cannot use NCCL; a single worker does not need it.
        torch_config=ray.train.torch.TorchConfig(
            backend="nccl" if workers.gpus >= 1 and workers.replicas > 1 else "gloo"
        ),
        run_config=ray.train.RunConfig(
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=storage_dir,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=2, controller_failure_limit=START_TRIES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise StageError(f"the classifier could not be trained from {base_model}: {cause_of(error)}") from error
    assert result.checkpoint is not None and result.metrics is not None
    replace(result.checkpoint.path, result.checkpoint.filesystem, out_dir, filesystem)
    # Ray Train keeps the checkpoints of a finished training.
    result.filesystem.delete_dir(result.filesystem.normalize_path(result.path))
    outcome: dict[str, Any] = result.metrics
    measured = measure({(true, predicted): count for true, predicted, count in outcome["pairs"]})
    return ClassifierReport(
        rows=outcome["train_rows"] + measured["holdout_rows"],
        train_rows=outcome["train_rows"],
        seconds=time.monotonic() - called,
        # The clocks of two machines may differ, so their difference may be negative.
        start_seconds=max(0.0, outcome["first_step_at"] - called_at),
        folder=out_dir,
        **measured,
    )


def parquet_files(rows: str | Sequence[str], filesystem: pafs.FileSystem) -> list[str]:
    """The Parquet files named by `rows`: a list of files, a file, or a folder with all its sub-folders (sorted).

    Raises InputError if there are none.
    """
    if not isinstance(rows, str):
        files = list(rows)
    elif filesystem.get_file_info(rows).type == pafs.FileType.File:
        files = [rows]
    else:
        selector = pafs.FileSelector(rows, recursive=True, allow_not_found=True)
        files = sorted(info.path for info in filesystem.get_file_info(selector) if info.path.endswith(".parquet"))
    if not files:
        raise InputError(f"no labelled rows: {rows} has no Parquet file")
    return files


def count_labels(files: Sequence[str], filesystem: pafs.FileSystem) -> Counter[str]:
    """The number of rows by task, of those with status ok or none; rows without a task are left out."""
    usable = pads.field("task").is_valid() & (pads.field("status").is_null() | (pads.field("status") == schemas.OK))
    dataset = pads.dataset(list(files), format="parquet", filesystem=filesystem)
    counts: Counter[str] = Counter()
    for batch in dataset.to_batches(columns=["task"], filter=usable):
        for value in pc.value_counts(batch["task"]).to_pylist():
            counts[value["values"]] += value["counts"]
    return counts


def _check(counts: Mapping[str, int], labels: Sequence[str], classify: Classify, workers: int) -> None:
    unknown = sorted(counts.keys() - set(labels))
    if unknown:
        raise InputError(
            f"labelled rows have the task {unknown[0]!r}{f' (and {len(unknown) - 1} more)' if unknown[1:] else ''}, "
            "which is not one of the labels: correct the rows or name a taxonomy with it in curriculum.tasks"
        )
    total = sum(counts.values())
    change = (
        f"raise classify.label_rows (it is {classify.label_rows}) or seed_data.limit, or set classify.by to teacher or "
        "none, which need no classifier"
    )
    if len(counts) < 2:
        raise StageError(
            f"a classifier needs rows of at least two labels, and {total} labelled rows have "
            f"{', '.join(counts) or 'none'}: {change}"
        )
    left = sum(rows - held_rows(rows, classify.holdout_share) for rows in counts.values())
    if left < workers:
        raise StageError(
            f"{left} of {total} labelled rows are left to train on after classify.holdout_share "
            f"{classify.holdout_share:g}, too few for resources.classifier.replicas {workers}: {change}"
        )
