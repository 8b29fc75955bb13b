"""Fine-tuning: the initial SFT on the seed data, and the training of each round on its mix."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.config import Config
from tapir_ray.config.config import NO_UNSEEN_ROWS
from tapir_ray.data.schemas import HOLDOUT, OK, SEED, TRAINING, in_share, pair_id
from tapir_ray.errors import InputError, StageError
from tapir_ray.run.attempts import check_owner
from tapir_ray.run.layout import Table
from tapir_ray.run.manifest import MANIFEST
from tapir_ray.run.model_store import written
from tapir_ray.run.run import Run
from tapir_ray.run.trackers.step_log import step_log
from tapir_ray.steps import tokenizer_texts
from tapir_ray.steps.context import Context
from tapir_ray.train.chat import brings_template
from tapir_ray.train.create_student import create_student
from tapir_ray.train.mailbox import shown
from tapir_ray.transforms.mark_style import mark_style
from tapir_ray.transforms.pack import pack
from tapir_ray.transforms.pack_stats import PackStats

RAY_TRAIN = "ray_train"
"""Folder of Ray Train's checkpoints, kept until a training is finished."""
POOL_OF_SEED = "seed"


@dataclass(frozen=True)
class Training:
    """Training of a student: what it reads, where it starts, and the outputs that it writes."""

    stage: str
    """Name in progress and trackers: `sft`, `train` or `control`."""
    round_number: int
    tables: list[Table]
    """Tables of training pairs."""
    packed: Table
    checkpoint: Table
    start: str
    """HF folder, URI or name of the student to train."""
    base: str | None = None
    """Model under the adapter that the training continues; None if it starts with a new adapter, or has none."""

    @property
    def label(self) -> str:
        return "initial SFT" if self.stage == "sft" else f"round {self.round_number} {self.stage}"

    @property
    def name(self) -> str:
        """First part of the name of Ray Train's folder."""
        return f"{'control' if self.stage == 'control' else 'round'}-{self.round_number:02d}-"


def base_student(context: Context) -> str:
    """Returns the folder, URI or HF name of the untrained student: `student.model`, or one made by `student.create`."""
    run, student, made = context.run, context.config.student, context.loop.base
    if student.create is None:
        assert student.model is not None
        return student.model
    if not run.done(made):
        seed_texts = tokenizer_texts.of_seed(context, responses=True)
        with written(run, made.path) as folder:
            create_student(student.create, seed_texts, folder, student.chat_template, context.config.random_seed)
        run.publish(made)
    return run.uri_of(made.path)


def student_after(context: Context, round_number: int) -> str:
    """Returns the HF folder (or name) of the student after a round. Raises StageError if it is not trained yet."""
    return student_in(context, context.loop.checkpoint(round_number))


def student_in(context: Context, checkpoint: Table) -> str:
    """Returns the HF folder (or name) of the student of a checkpoint. Raises StageError if it is not trained yet."""
    return context.run.manifest(checkpoint).extra.get("model") or context.run.uri_of(checkpoint.path)


def initial_sft(context: Context, source: Table) -> None:
    """Writes `seed/training`, `seed/packed` and `checkpoints/00`, the student fine-tuned on the seed data.

    `train.initial_share` of the seed rows are trained on, the same in every start. If the initial SFT is off (`auto`:
    for a model with a chat template), `checkpoints/00` only names the model.

    Raises InputError if it would leave no row for `score.candidates: unseen`, and if the share has no row.
    """
    run, config, layout = context.run, context.config, context.loop
    if run.done(layout.sft_checkpoint):
        return
    base = base_student(context)
    if not wanted(context, base):
        run.publish(layout.sft_checkpoint, extra={"model": base})
        return
    if config.curriculum.rounds and not config.leaves_unseen_rows:
        raise InputError(NO_UNSEEN_ROWS)
    with context.stage("sft", 0):
        if not run.done(layout.sft_training):
            share = config.train.initial_share
            rows = context.read(source)
            rows = context.map(rows, mark_style) if config.rewrite.mark else rows
            rows = context.map(rows, pairs)
            rows = context.map(rows, in_initial_share, random_seed=config.random_seed, share=share)
            if not context.write(layout.sft_training, rows, "seed data to train on").rows and share < 1.0:
                run.clear(layout.sft_training)
                raise InputError(f"train.initial_share {share:g} has no seed row: raise it")
        held = packed_holdout(context, source, base)
        training = Training("sft", 0, [layout.sft_training], layout.sft_packed, layout.sft_checkpoint, base)
        fit(context, training, config.train.initial_epochs, config.train.learning_rate, held)


def train(context: Context, round_number: int) -> None:
    """Writes `rounds/NN/packed` and `checkpoints/NN`, from this round's training set or those of all rounds so far."""
    run, settings, layout = context.run, context.config.train, context.loop
    if run.done(layout.checkpoint(round_number)):
        return
    tables = layout.training_sets(round_number, settings.data == "cumulative")
    packed, checkpoint, previous = (
        layout.packed(round_number), layout.checkpoint(round_number), layout.checkpoint(round_number - 1)
    )  # fmt: skip
    with context.stage("train", round_number):
        training = Training("train", round_number, tables, packed, checkpoint, *start_of_round(context, previous))
        held = packed_holdout(context, layout.instructions, training.start)
        fit(context, training, settings.epochs, round_rate(context), held)


def round_rate(context: Context) -> float:
    """Returns the peak learning rate of a round."""
    settings = context.config.train
    return settings.round_learning_rate or settings.learning_rate


def start_of_round(context: Context, previous: Table) -> tuple[str, str | None]:
    """Returns (student that a round trains, model under the adapter that it continues or None).

    `previous` is the checkpoint after the round before.
    """
    settings = context.config.train
    if settings.init_from == "base":
        return base_student(context), None
    trained = "model" not in context.run.manifest(previous).extra
    continues = settings.lora is not None and settings.lora.between_rounds == "continue" and trained
    return student_in(context, previous), base_student(context) if continues else None


def packed_holdout(context: Context, source: Table, model: str) -> str | None:
    """Writes `seed/holdout` and `seed/holdout_packed`, the holdout packed like a training set.

    Returns the folder of the packed holdout; None if it is empty.
    """
    run, config, layout = context.run, context.config, context.loop
    packed = layout.holdout_packed
    if not run.done(packed):
        if not run.done(source):
            return None  # a run that began with the user's own training set
        if not run.done(layout.holdout):
            rows = context.map(context.read(source), pairs, split=HOLDOUT)
            context.write(layout.holdout, rows, "holdout to measure the loss on")
        held = [run.files(layout.holdout)]
        stats = pack(
            held, run.path(packed.path), run.fs, model, config.student, config.train, 0, 1, context.transform_cpus
        )
        run.publish(packed, extra=asdict(stats))
        _say_left_out(context, "holdout", stats)
    return run.path(packed.path) if run.manifest(packed).extra["sequences"] else None


def fit(context: Context, training: Training, epochs: int, rate: float, held: str | None) -> None:
    """Packs the pairs of a training and trains its student on them, `epochs` times, with the peak learning rate `rate`.

    `held` is the folder of the packed holdout, whose loss is measured; None if there is none. Raises StageError if no
    pair can be packed, and InputError if the training was started with another number of workers.
    """
    from tapir_ray.train.student import train_student

    run, config, label = context.run, context.config, training.label
    packed, checkpoint, tables = training.packed, training.checkpoint, training.tables
    with context.progress.stage(label) as facts:
        if not run.done(packed):
            stats = pack(
                [run.files(table) for table in tables],
                run.path(packed.path),
                run.fs,
                training.start,
                config.student,
                config.train,
                # Another order every round, since `train.data: cumulative` repeats the pairs of earlier rounds.
                config.random_seed + training.round_number,
                epochs,
                context.transform_cpus,
            )
            run.publish(packed, extra=asdict(stats))
            _say_left_out(context, label, stats)
        if run.manifest(packed).extra["sequences"] == 0:
            raise StageError(f"{packed} holds no sequence; see the reasons in {', '.join(map(str, tables))}")
        # The name decides whether a stopped training continues from its checkpoint: same packed table, same workers.
        table = hashlib.blake2b(run.read_text(f"{packed}/{MANIFEST}").encode(), digest_size=6).hexdigest()
        folder = f"{training.name}{table}-{config.resources.train.replicas}"
        _refuse_other_workers(run, folder)
        _remove_trainings(run, training.name, but=folder)
        # A local teacher or judge may hold the GPUs that training needs.
        context.roles.free_resources_for("train")
        kind = "control" if training.stage == "control" else "train"
        with step_log(run, context.trackers, kind, folder, training.round_number) as log:

            def show(message: dict[str, Any]) -> None:
                facts.update(shown(message))
                log.add(message)

            result = train_student(
                run.path(packed.path),
                run.fs,
                training.start,
                run.path(checkpoint.path),
                run.path(RAY_TRAIN),
                folder,
                config.student,
                config.train,
                config.resources,
                epochs,
                rate,
                config.random_seed,
                base_model=training.base,
                on_progress=show,
                before_writing=lambda: check_owner(run, run.attempt),
                holdout_dir=held,
                schedule_part=_schedule_part(config, training.round_number),
            )
            log.complete(result.losses, result.holdout_losses)
        facts.clear()
        facts |= {"loss": f"{result.first_loss:.2f} → {result.last_loss:.2f}"}
        if result.holdout_losses:
            facts["holdout loss"] = f"{result.holdout_losses[0][1]:.2f} → {result.holdout_losses[-1][1]:.2f}"
        facts["tokens"] = f"{result.tokens:,}"
    # Entries for each step or pair would bloat the manifest; the result file in the checkpoint has them.
    apart = ("losses", "holdout_pairs_before", "holdout_pairs", "checkpoint")
    summary = {key: value for key, value in asdict(result).items() if key not in apart}
    run.publish(checkpoint, extra=summary)
    _remove_trainings(run, training.name)


def _schedule_part(config: Config, round_number: int) -> tuple[int, int]:
    """Returns (r, R) if a round trains with the r-th of R parts of one schedule, else (1, 1)."""
    whole = config.train.schedule == "whole" and round_number > 0
    return (round_number, config.curriculum.rounds) if whole else (1, 1)


def _say_left_out(context: Context, label: str, stats: PackStats) -> None:
    for warning in stats.warnings():
        context.progress.say(f"{label}: {warning}")


def _refuse_other_workers(run: Run, training: str) -> None:
    """Raises InputError if this training was started with another number of workers."""
    # A DeepSpeed checkpoint is split by worker and cannot be loaded by another number of them.
    stem, _, workers = training.rpartition("-")
    for name in run.children(RAY_TRAIN):
        others = name.removeprefix(f"{stem}-")
        begun = others.isdigit() and any("checkpoint_" in entry for entry in run.children(f"{RAY_TRAIN}/{name}"))
        if begun and others != workers:
            raise InputError(
                f"resources.train.replicas is {workers}, but {run.uri_of(f'{RAY_TRAIN}/{name}')} holds a training "
                f"started with {others}: set it to {others} to continue from its checkpoint, or remove that folder to "
                "start the training again"
            )


def _remove_trainings(run: Run, start: str, but: str = "") -> None:
    """Removes Ray Train's folders whose names begin with `start`, except `but`."""
    for name in run.children(RAY_TRAIN):
        if name.startswith(start) and name != but:
            run.fs.delete_dir(run.path(f"{RAY_TRAIN}/{name}"))


def in_initial_share(batch: pa.Table, random_seed: int, share: float) -> pa.Table:
    """Returns the rows of the initial SFT: a share of all, by a hash of id and random seed."""
    if share == 1.0:
        return batch
    ids = batch["instruction_id"].to_pylist()
    return batch.filter(pa.array([in_share(row_id, random_seed, share, "initial_sft") for row_id in ids], pa.bool_()))


def wanted(context: Context, base: str) -> bool:
    """Returns True if an initial SFT is wanted; `auto` wants it for a base model, which has no chat template."""
    setting = context.config.train.initial_sft
    if setting != "auto":
        return setting == "on"
    return context.config.student.create is not None or not brings_template(base, context.config.student)


def pairs(batch: pa.Table, split: str = SEED) -> pa.Table:
    """Returns the ok rows of a split as training rows, each once."""
    keep = pc.and_(pc.equal(batch["status"], OK), pc.equal(batch["split"], split))
    batch = batch.filter(pc.and_(keep, pc.is_valid(batch["response"])))
    ids = [pair_id(row_id, 0) for row_id in batch["instruction_id"].to_pylist()]
    columns = {
        "pair_id": pa.array(ids, pa.string()),
        "instruction_id": batch["instruction_id"],
        "copy": pa.array([0] * len(batch), pa.int64()),
        "messages": batch["messages"],
        "response": batch["response"],
        "masked_turns": batch["masked_turns"],
        "task": batch["task"],
        "pool": pa.array([POOL_OF_SEED] * len(batch), pa.string()),
        "tokens": pa.nulls(len(batch), pa.int64()),
        "status": batch["status"],
        "reason": batch["reason"],
    }
    return pa.table(columns, schema=TRAINING)
