"""Checkpoints on the way: what a training that lost a worker goes on from."""

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
"""In a checkpoint on the way: the steps that are done, with their losses."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's own list of a training's checkpoints."""
STEPS, HOLDOUT_LOSS = "steps", "holdout_loss"


@dataclass
class Done:
    """What is done of a training, the same on every rank."""

    losses: list[float] = field(default_factory=list)
    """Of each step."""
    tokens: int = 0
    response_tokens: int = 0
    seconds: float = 0.0
    holdout_losses: list[list[float]] = field(default_factory=list)
    """(steps done, loss on the holdout) before the first step, at each checkpoint and after the last."""
    holdout_pairs_before: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Before the first step, by pair of the holdout: the summed loss of its response tokens, and their number."""

    def metrics(self) -> dict[str, float]:
        """What Ray Train notes of a checkpoint: the steps done and, with a holdout, the loss that it is compared by."""
        scored = {HOLDOUT_LOSS: self.holdout_losses[-1][1]} if self.holdout_losses else {}
        return {STEPS: len(self.losses), **scored}


def save(engine: Any, done: Done) -> None:
    """Report the optimizer's and the model's state; a collective call, each rank with its own part.

    Weights that are not trained are left out: they are those of the model that the training begins with.
    """
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        engine.save_checkpoint(folder, tag="state", exclude_frozen_parameters=True)
        (Path(folder) / PROGRESS_FILE).write_text(json.dumps(asdict(done)))
        ray.train.report(done.metrics(), checkpoint=ray.train.Checkpoint.from_directory(folder))


def restore(engine: Any, folder: Path) -> Done:
    """What is done of the training whose state is loaded from a checkpoint; raises StageError if it cannot be read."""
    whole = all(parameter.requires_grad for parameter in engine.module.parameters())
    path, _ = engine.load_checkpoint(str(folder), tag="state", load_module_strict=whole)
    if path is None:
        raise StageError(f"the checkpoint in {folder} cannot be read by this number of workers")
    return Done(**json.loads((folder / PROGRESS_FILE).read_text()))


def forget_torn(fs: pafs.FileSystem, folder: str, result_file: str) -> None:
    """Remove a training's folder, which is logged, if its list of checkpoints or its last one is empty or torn.

    That training then begins with its first step: Ray Train would refuse the list, and a checkpoint cannot be trusted
    whose own record is not whole. `result_file` is the record of a finished one.
    """
    listed = _json(fs, f"{folder}/{SNAPSHOT}")
    if listed is None:
        return
    last = (listed.get("latest_checkpoint_result") or {}).get("checkpoint_dir_name")
    records = [_json(fs, f"{folder}/{last}/{name}") for name in (result_file, PROGRESS_FILE)] if last else []
    if listed and {} not in records:
        return
    logging.getLogger(__name__).warning(
        "%s: the records of its checkpoints are empty or torn; this training begins with its first step", folder
    )
    table_removal.remove(fs, folder)


def _json(fs: pafs.FileSystem, path: str) -> dict[str, Any] | None:
    """The JSON object in a file; {} if it is empty or torn, None if it is not there."""
    try:
        with fs.open_input_stream(path) as stream:
            found = json.loads(stream.read())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
