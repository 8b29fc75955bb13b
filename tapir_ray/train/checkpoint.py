"""Intermediate checkpoints, from which a training continues after the loss of a worker."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from tapir_ray.errors import StageError
from tapir_ray.run import table_removal

PROGRESS_FILE = "tapir_progress.json"
"""File of an intermediate checkpoint: the completed steps with their losses."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""File in which Ray Train lists the checkpoints of a training."""
STEPS, HOLDOUT_LOSS = "steps", "holdout_loss"


@dataclass
class Done:
    """Progress of a training, the same on every rank."""

    losses: list[float] = field(default_factory=list)
    """Loss of each completed step."""
    tokens: int = 0
    response_tokens: int = 0
    seconds: float = 0.0
    holdout_losses: list[list[float]] = field(default_factory=list)
    """(completed steps, holdout loss) before the first step, at each checkpoint and after the last step."""
    holdout_pairs_before: dict[str, tuple[float, int]] = field(default_factory=dict)
    """(summed loss of the response tokens, their number) of each holdout pair before the first step."""

    def metrics(self) -> dict[str, float]:
        """Metrics for Ray Train: the completed steps and, with a holdout, the loss by which checkpoints are ranked."""
        scored = {HOLDOUT_LOSS: self.holdout_losses[-1][1]} if self.holdout_losses else {}
        return {STEPS: len(self.losses), **scored}


def save(engine: Any, done: Done) -> None:
    """Reports a checkpoint of optimizer and model. A collective call: each rank writes its own part.

    Frozen weights are left out, because they are those of the model that the training starts from.
    """
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag="state", exclude_frozen_parameters=True)
        (Path(folder) / PROGRESS_FILE).write_text(json.dumps(asdict(done)))
        ray.train.report(done.metrics(), checkpoint=ray.train.Checkpoint.from_directory(folder))


def restore(engine: Any, folder: Path) -> Done:
    """Loads optimizer and model from a checkpoint; returns the progress. Raises StageError if it cannot be read."""
    whole = all(parameter.requires_grad for parameter in engine.module.parameters())
    # `save` leaves frozen weights out, so a model with some cannot be loaded strictly.
    path, _ = engine.load_checkpoint(str(folder), tag="state", load_module_strict=whole)
    if path is None:
        raise StageError(
            f"the checkpoint in {folder} cannot be read by this number of workers: set resources.train.replicas to the "
            "number that wrote it"
        )
    return Done(**json.loads((folder / PROGRESS_FILE).read_text()))


def forget_torn(fs: pafs.FileSystem, folder: str, result_file: str) -> None:
    """Removes the folder of a training if its list of checkpoints or its last checkpoint is empty or torn; logs it.

    The training then starts from its first step. Ray Train would reject the torn list, and a checkpoint with a torn
    record cannot be trusted. `result_file` is the record of a finished training.
    """
    listed = _json(fs, f"{folder}/{SNAPSHOT}")
    if listed is None:
        return
    last = (listed.get("latest_checkpoint_result") or {}).get("checkpoint_dir_name")
    records = [_json(fs, f"{folder}/{last}/{name}") for name in (result_file, PROGRESS_FILE)] if last else []
    if listed and {} not in records:
        return
    logging.getLogger(__name__).warning(
        "%s: the records of its checkpoints are empty or torn; this training starts from its first step", folder
    )
    table_removal.remove(fs, folder)


def _json(fs: pafs.FileSystem, path: str) -> dict[str, Any] | None:
    """The JSON object in a file; {} if the file is empty or torn, None if it does not exist."""
    try:
        with fs.open_input_stream(path) as stream:
            found = json.loads(stream.read())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
