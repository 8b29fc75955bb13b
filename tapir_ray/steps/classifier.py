"""Task labels of the seed data: the teacher labels a sample, DeBERTa is fine-tuned on it and labels every row."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.curriculum.sampling import count_cells, cutoffs, take
from tapir_ray.curriculum.tasks import OTHERS
from tapir_ray.data.schemas import HOLDOUT, INSTRUCTIONS, OK, SEED, in_share, with_columns
from tapir_ray.llm.asker import Row
from tapir_ray.run.model_store import written
from tapir_ray.steps import tokenizer_texts
from tapir_ray.steps.context import Context

REPORT = "report.json"
"""File in the classifier's folder that marks a finished training; written last."""
SAMPLE = "sample"
"""Pool and task of the single cell that the sample is drawn from."""


def train(context: Context) -> None:
    """Writes `seed/labels` (a sample labelled by the teacher) and `classifier/model`.

    Does nothing if the config takes its labels from elsewhere, or if the classifier is trained.
    """
    from tapir_ray.train.classifier import train_classifier
    from tapir_ray.train.create_classifier import create_classifier

    run, config, layout = context.run, context.config, context.loop
    settings, folder = config.classify, layout.classifier
    if settings.by != "deberta" or settings.label_rows == 0 or run.find_json(f"{folder}/{REPORT}"):
        return
    with context.stage("train_classifier", 0):
        if not run.done(layout.labels):
            label_sample(context)
        base = settings.model
        labels = list(context.taxonomy.labels)
        if settings.create is not None:
            with written(run, f"{folder}/base") as place:
                create_classifier(settings.create, tokenizer_texts.of_seed(context), labels, place, config.random_seed)
            base = run.uri_of(f"{folder}/base")
        assert base is not None
        with context.progress.stage("train the classifier") as facts:
            report = train_classifier(
                run.files(layout.labels),
                base,
                labels,
                settings,
                config.resources,
                out_dir=run.path(f"{folder}/model"),
                storage_dir=run.path(f"{folder}/train"),
                name=f"classifier-{run.attempt}",
                random_seed=config.random_seed,
                fs=run.fs,
            )
            if report.accuracy is not None:
                facts["accuracy"] = f"{report.accuracy:.2f}"
        run.write_json(f"{folder}/{REPORT}", report.to_dict())


def label_sample(context: Context) -> None:
    """Writes `seed/labels`: `classify.label_rows` seed rows, drawn by hash, with the teacher's label as their task."""
    from tapir_ray.transforms.label import label

    config, table = context.config, context.loop.labels
    usable = context.map(context.read(tokenizer_texts.seed_table(context)), _usable)
    found = count_cells(usable, config.random_seed, ("label",), transform_cpus=context.transform_cpus)
    wanted = min(config.classify.label_rows, sum(rows for rows, _ in found.capacities.values()))
    quota = {(SAMPLE, SAMPLE): wanted}
    chosen = cutoffs(usable, found, quota, transform_cpus=context.transform_cpus)
    rows = context.remaining(table, take(usable, chosen, context.transform_cpus))
    rows = label(rows, config, context.roles, list(context.taxonomy.labels))
    context.write(table, rows, "teacher labels a sample", wanted)


def classify_seed(context: Context) -> None:
    """Writes `seed/instructions`: every seed and holdout row with its task.

    Unless `seed_data.responses` is `keep`, the teacher answers as well.
    """
    from tapir_ray.transforms.classify import classify
    from tapir_ray.transforms.label import label
    from tapir_ray.transforms.respond import respond

    run, config, layout = context.run, context.config, context.loop
    if run.done(layout.instructions):
        return
    with context.stage("classify", 0):
        rows = context.remaining(layout.instructions, context.read(layout.ingested))
        if config.classify.by == "deberta":
            rows = classify(rows, model(context), config)
        elif config.classify.by == "teacher":
            rows = label(rows, config, context.roles, list(context.taxonomy.labels))
        elif config.classify.by == "none":
            rows = context.map(rows, _one_task)
        if config.seed_data.responses != "keep":
            # `respond` answers rows without a response, so existing ones are removed first.
            replace = config.seed_data.responses == "replace"
            rows = context.map(rows, _without_response) if replace else rows
            only = None if config.answers_pool else _needed(context)
            rows = respond(rows, config, context.roles, context.taxonomy.styles, schema=INSTRUCTIONS, only=only)
        context.write(layout.instructions, rows, "classify", run.manifest(layout.ingested).rows)


def _needed(context: Context) -> Callable[[Row], bool]:
    """Returns the function that tells whether a row of a pool without answers needs one all the same."""
    from tapir_ray.steps.train import base_student, wanted

    train = context.config.train
    share = train.initial_share if wanted(context, base_student(context)) else 0.0
    return functools.partial(answered_first, random_seed=context.config.random_seed, share=share)


def answered_first(row: Row, random_seed: int, share: float) -> bool:
    """Whether a method that needs no answers to its pool needs one to a row: of the holdout, or in the initial SFT."""
    held = row["split"] == HOLDOUT
    return held or share == 1.0 or in_share(row["instruction_id"], random_seed, share, "initial_sft")


def model(context: Context) -> str:
    """Returns the folder, URI or HF name of the classifier: the run's own, or the one that the config names."""
    settings = context.config.classify
    if settings.label_rows:
        return context.run.uri_of(f"{context.loop.classifier}/model")
    assert settings.model is not None
    return settings.model


def _usable(batch: pa.Table) -> pa.Table:
    keep = pc.and_(pc.equal(batch["status"], OK), pc.equal(batch["split"], SEED))
    return with_columns(batch.filter(keep), pool=SAMPLE, task=SAMPLE)


def _one_task(batch: pa.Table) -> pa.Table:
    return with_columns(batch, task=OTHERS)


def _without_response(batch: pa.Table) -> pa.Table:
    return with_columns(batch, response=None)
