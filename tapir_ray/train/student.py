"""Fine-tunes the student with Ray Train and DeepSpeed, from a packed table to a HF folder.

    result = train_student("runs/x/rounds/01/packed", fs, "runs/x/checkpoints/00", "runs/x/checkpoints/01",
                           "runs/x/ray_train", "x-01-a1", config.student, config.train, config.resources, …)

Several trainings may run at once in one driver, each in its own thread and with its own name.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
import ray

from tapir_ray.cluster.placement import with_driver
from tapir_ray.config import Resources, Student, Train
from tapir_ray.errors import StageError, TapirError, full_disk
from tapir_ray.run.model_store import replace
from tapir_ray.train.batches import PackedReader
from tapir_ray.train.checkpoint import HOLDOUT_LOSS, STEPS, forget_torn
from tapir_ray.train.divergence import what_is_left
from tapir_ray.train.loop import ERROR_FILE, RESULT_FILE, train_worker
from tapir_ray.train.lora import check_target_modules
from tapir_ray.train.mailbox import Mailbox
from tapir_ray.train.trainer import START_TRIES, cause_of, trainer_class
from tapir_ray.train.work import Work


@dataclass(frozen=True)
class TrainResult:
    """Result of a training."""

    steps: int
    sequences: int
    tokens: int
    """Tokens of all sequences, without padding."""
    response_tokens: int
    """Tokens in the loss."""
    first_loss: float
    last_loss: float
    holdout_losses: list[tuple[int, float]]
    """(completed steps, mean cross-entropy on the holdout in nats per response token) before the first step, at
    checkpoints and after the last step; empty without a holdout."""
    holdout_pairs_before: dict[str, tuple[float, int]]
    """(sum of the cross-entropy over the response tokens in nats, their number) of each holdout pair before the first
    step."""
    holdout_pairs: dict[str, tuple[float, int]]
    """The same after the last step."""
    losses: list[float]
    """Mean cross-entropy of each global batch before its step, in nats per response token."""
    seconds: float
    """Time from the first step to the last."""
    startup_seconds: float
    """Time from the call to the first step; if workers were replaced, to the first step of the last ones."""
    checkpoint: str
    """HF folder of the new student."""


def train_student(
    packed_dir: str,
    fs: pafs.FileSystem,
    init_model: str,
    out_dir: str,
    storage_dir: str,
    name: str,
    student: Student,
    train: Train,
    resources: Resources,
    epochs: int,
    learning_rate: float,
    random_seed: int,
    base_model: str | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    before_writing: Callable[[], None] = lambda: None,
    holdout_dir: str | None = None,
    schedule_part: tuple[int, int] = (1, 1),
) -> TrainResult:
    """Trains `init_model` once through the packed table and writes the new student to the folder `out_dir`.

    - `packed_dir`, `out_dir` and `storage_dir` are paths on `fs`. The table already holds `epochs` epochs.
    - `storage_dir` is for Ray Train's files; the caller removes it once the result is safe.
    - `name` must be new for every packed table: a stopped training of the same name continues from its last checkpoint.
    - `on_progress` is called from this thread about once a second, `before_writing` before `out_dir` is touched.
    - `holdout_dir` is a packed table whose loss is evaluated during the training.
    - `base_model`, with `train.lora`, continues the adapter stored with `init_model` (`between_rounds: continue`) on
      this model; without it the adapter is new. `out_dir` gets merged weights in both cases.
    - `schedule_part` (r, R): the training covers the r-th of R equal parts of its learning-rate schedule.

    Raises InputError if `train.lora` names unknown modules. Raises StageError if the training fails; its checkpoints
    then stay.
    """
    import ray.train
    import ray.train.torch
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig

    called = time.time()
    if isinstance(fs, pafs.LocalFileSystem):
        packed_dir, out_dir, storage_dir = map(os.path.abspath, (packed_dir, out_dir, storage_dir))
        holdout_dir = holdout_dir and os.path.abspath(holdout_dir)
    own_dir = f"{storage_dir.rstrip('/')}/{name}"
    init_model = os.path.abspath(init_model) if os.path.isdir(init_model) else init_model
    base_model = os.path.abspath(base_model) if base_model and os.path.isdir(base_model) else base_model
    if PackedReader(packed_dir, fs).sequences == 0:
        raise StageError(
            f"{packed_dir} holds no sequence to train on: no pair passed the filters and fits train.sequence_length "
            f"{train.sequence_length}"
        )
    if train.lora is not None:
        check_target_modules(student, train.lora, base_model or init_model)
    mailbox: Any = None
    if on_progress:
        # Restarted if its process dies: progress must not end a training.
        mailbox = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Mailbox)
        mailbox = mailbox.options(**with_driver()).remote()
    work = Work(
        packed_dir=packed_dir,
        holdout_dir=holdout_dir,
        storage_dir=own_dir,
        fs=fs,
        init_model=init_model,
        base_model=base_model,
        student=student,
        train=train,
        learning_rate=learning_rate,
        epochs=epochs,
        random_seed=random_seed,
        progress=mailbox,
        schedule_part=schedule_part[0],
        schedule_parts=schedule_part[1],
    )
    forget_torn(fs, own_dir, RESULT_FILE)
    fs.create_dir(own_dir, recursive=True)
    # Of an earlier attempt: the file must tell of this one.
    if _text(fs, f"{own_dir}/{ERROR_FILE}") is not None:
        fs.delete_file(f"{own_dir}/{ERROR_FILE}")
    workers = resources.train
    claims = {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}
    trainer = trainer_class()(
        train_worker,
        train_loop_config={"work": work},
        torch_config=ray.train.torch.TorchConfig(backend=_backend(workers.gpus)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.replicas,
            use_gpu=workers.gpus > 0,
            resources_per_worker=claims,
            accelerator_type=workers.accelerator_type,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage_dir,
            storage_filesystem=fs,
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            # Hides all GPUs from workers that claim none.
            worker_runtime_env={} if workers.gpus else {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}},
            # The controller retries without limit by default, so workers that can never be placed would block forever.
            failure_config=FailureConfig(max_failures=train.max_failures, controller_failure_limit=START_TRIES),
            checkpoint_config=CheckpointConfig(
                num_to_keep=train.checkpoints_kept,
                checkpoint_score_attribute=HOLDOUT_LOSS if holdout_dir else None,
                checkpoint_score_order="min",
            ),
        ),
    )
    result = _fit(trainer, mailbox, on_progress)
    if (left := _text(fs, f"{own_dir}/{ERROR_FILE}")) is not None:
        raise StageError(f"training failed: {_sentence(_left(left), result)}")
    before_writing()
    replace(result.checkpoint.path, result.checkpoint.filesystem, out_dir, fs)
    facts = json.loads(_text(fs, f"{out_dir}/{RESULT_FILE}") or "")
    facts["holdout_losses"] = [(step, loss) for step, loss in facts["holdout_losses"]]
    for name in ("holdout_pairs_before", "holdout_pairs"):
        facts[name] = {pair: (loss, tokens) for pair, (loss, tokens) in facts[name].items()}
    # The difference of two machines' clocks may be negative.
    startup_seconds = max(0.0, facts.pop("started") - called)
    losses = facts["losses"]
    return TrainResult(
        **facts, first_loss=losses[0], last_loss=losses[-1], startup_seconds=startup_seconds, checkpoint=out_dir
    )


def _left(text: str) -> dict[str, Any]:
    """The content of ERROR_FILE, as the workers left it."""
    try:
        return dict(json.loads(text))
    except ValueError:
        return {"error": "the error file of its workers is torn; start the same command again", "good": None}


def _sentence(left: dict[str, Any], result: Any) -> str:
    """The error that the workers left, and the last good checkpoint that Ray Train has kept."""
    if left["good"] is None:
        return str(left["error"])
    kept = {int(noted[STEPS]): checkpoint.path for checkpoint, noted in result.best_checkpoints}
    return f"{left['error']}; {what_is_left(kept, left['good'])}"


def _text(fs: pafs.FileSystem, path: str) -> str | None:
    if fs.get_file_info(path).type == pafs.FileType.NotFound:
        return None
    with fs.open_input_stream(path) as stream:
        return stream.read().decode()


def _backend(gpus: float) -> str:
    """`nccl` for GPUs; `gloo` for CPUs, also if a cluster has only logical GPUs, as in tests."""
    have = ray.cluster_resources()
    real = any(key.startswith("accelerator_type:") for key in have)
    return "nccl" if gpus > 0 and (real or not have.get("GPU")) else "gloo"


def _fit(trainer: Any, mailbox: Any, on_progress: Callable[[dict[str, Any]], None] | None) -> Any:
    """Runs `trainer.fit()` and passes the workers' messages to `on_progress` meanwhile. Raises StageError."""

    def hand_on() -> None:
        if on_progress is not None:
            for message in ray.get(mailbox.take.remote()):
                on_progress(message)

    trainer.meanwhile = hand_on
    try:
        result = trainer.fit()
    except TapirError:
        raise  # a stop
    except Exception as error:
        raise full_disk(error) or StageError(f"training failed: {cause_of(error)}") from error
    hand_on()
    return result
