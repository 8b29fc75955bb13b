"""`tapir classifier label|train|score`: labels for the task classifier, its training and its scores.

    tapir classifier label CONFIG --run-dir RUN                    # the teacher labels a sample of the seed data
    tapir classifier train CONFIG --run-dir RUN                    # fine-tune on it; accuracy, macro-F1, confusion
    tapir classifier train CONFIG --rows Math=gsm8k.jsonl own.jsonl          # on rows with known tasks instead
    tapir classifier score CONFIG --rows FILE                      # score on rows with known tasks

`--rows` takes files with a task in the column `seed_data.task_column`, or TASK=FILE if all rows of a file have the same
task. `tapir run` in the same folder uses the labels and the classifier.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.table import Table

from tapir_ray.api.offline import check_offline
from tapir_ray.api.opening import started
from tapir_ray.cli.terminal import TERMINAL
from tapir_ray.config import Config
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.data.files import find
from tapir_ray.data.schemas import with_columns
from tapir_ray.data.storage import is_remote
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.report.console import console
from tapir_ray.run.layout import CLASSIFIER
from tapir_ray.run.layout import Table as RunTable
from tapir_ray.steps import classifier, seed
from tapir_ray.steps.context import Context
from tapir_ray.steps.round_zero import ingest
from tapir_ray.transforms.classify import load_labels, score_classifier
from tapir_ray.transforms.ingest import PARSED, parse_sources

READ_ROWS = RunTable(f"{CLASSIFIER}/read_rows", PARSED)
SCORED_ROWS = RunTable(f"{CLASSIFIER}/scored_rows", PARSED)


def prepare(config: Config, run_dir: str, train: bool, rows: Sequence[str] = ()) -> None:
    """Ingests the seed data and labels a sample; with `train` fine-tunes the classifier and prints its scores.

    With `rows` their tasks are the labels, and the teacher is not asked. Raises InputError if the config has no
    classifier to train, a row cannot be used, or `rows` are given and the run already has labels.
    """
    if config.classify.by != "deberta" or config.classify.label_rows == 0:
        raise InputError("classify.by must be deberta and classify.label_rows above 0 to label rows and train on them")
    files = task_files(rows, config, check_offline(config)) if rows else {}
    with started(config, run_dir, caller=TERMINAL) as context:
        labels, folder = context.loop.labels, context.loop.classifier
        if rows and context.run.done(labels):
            raise InputError(f"{context.run.uri} already has labelled rows: give another --run-dir to use --rows")
        ingest(context)
        if rows:
            read_rows(context, files, READ_ROWS)
            context.write(labels, context.read(READ_ROWS), "rows with a task")
        if not train:
            if not context.run.done(labels):
                classifier.label_sample(context)
            print(f"{context.run.manifest(labels).rows} labelled rows: {context.run.uri_of(labels.path)}")
            return
        classifier.train(context)
        show(context.run.read_json(f"{folder}/{classifier.REPORT}"))
        print(f"classifier: {classifier.model(context)}")


def score(config: Config, run_dir: str, rows: Sequence[str], model: str | None) -> None:
    """Prints the scores of a classifier on the rows of files with known tasks.

    `model` is None for the run's own classifier. Raises InputError if a file, the column or the classifier is missing,
    or a row cannot be used.
    """
    if not rows:
        raise InputError("tapir classifier score needs --rows: files with the task of each row")
    if model is None and config.classify.by != "deberta":
        raise InputError("tapir classifier score needs --model, or classify.by: deberta to score the run's classifier")
    if model is not None:
        load_labels(model, config.classify.trust_remote_code)
    files = task_files(rows, config, check_offline(config, labelled=True))
    with started(config, run_dir, labelled=True, caller=TERMINAL) as context:
        trained = context.run.find_json(f"{context.loop.classifier}/{classifier.REPORT}") is not None
        if model is None and config.classify.label_rows and not trained:
            raise InputError(
                f"{context.run.uri} has no classifier yet: give --model, or run tapir classifier train first"
            )
        read_rows(context, files, SCORED_ROWS)
        chosen = model or classifier.model(context)
        show(score_classifier(context.run.files(SCORED_ROWS), chosen, context.config, context.run.fs).to_dict())


def task_files(rows: Sequence[str], config: Config, taxonomy: Taxonomy) -> dict[str | None, list[str]]:
    """Returns the files of `--rows` by the task of all their rows; by None if each row has its own.

    Raises InputError for a missing file, a task outside the taxonomy, and rows with their own tasks without
    `seed_data.task_column`.
    """
    found: dict[str | None, list[str]] = {}
    for source in rows:
        task, sign, path = source.partition("=")
        # A path or URI may contain an equals sign too.
        whole = bool(sign) and not is_remote(source) and not Path(source).exists()
        if whole:
            taxonomy.check(task, f"--rows {source}")
        elif config.seed_data.task_column is None:
            raise InputError(
                f"--rows {source}: name the column with the tasks in seed_data.task_column, or write TASK=FILE"
            )
        there = find(path if whole else source, "--rows", "all")
        for note in there.left_out:
            print(f"--rows {source}: {note}", file=sys.stderr)
        found.setdefault(task if whole else None, []).extend(there.files)
    return found


def read_rows(context: Context, files: dict[str | None, list[str]], table: RunTable) -> None:
    """Writes the rows of `task_files` with their tasks to `table`. Raises InputError for rows that cannot be used."""
    settings = context.config.seed_data.model_copy(update={"limit": None})
    parsed = []
    for task, paths in files.items():
        rows = parse_sources(paths, settings, context.transform_cpus)
        parsed.append(rows if task is None else context.map(rows, _of_task, task=task))
    first, *others = parsed
    context.write(table, first.union(*others) if others else first, "read the rows")
    where = "--rows " + " ".join(path for paths in files.values() for path in paths)
    seed.check_rows(context, table, where)
    seed.check_task_column(context, table, f"{where}, column {settings.task_column}")
    seed.check_tasks(context, table, f"column {settings.task_column} of {where}")


def _of_task(batch: pa.Table, task: str) -> pa.Table:
    return with_columns(batch, task=one_line(task))


def show(report: dict[str, Any]) -> None:
    """Prints accuracy, macro-F1 and the confusion table (true tasks down, predicted across)."""
    out = console(sys.stdout)
    if report["accuracy"] is None:
        out.print("no held-out rows to score on")
        return
    out.print(
        f"{report['holdout_rows']} held-out rows: accuracy {report['accuracy']:.3f}, macro-F1 {report['macro_f1']:.3f}"
    )
    confusion: dict[str, dict[str, int]] = report["confusion"]
    predicted = sorted({label for counts in confusion.values() for label in counts})
    table = Table("true", *predicted, "F1")
    for label, counts in confusion.items():
        shown = [str(counts[name]) if name in counts else "" for name in predicted]
        table.add_row(label, *shown, f"{report['per_label_f1'][label]:.2f}")
    out.print(table)
