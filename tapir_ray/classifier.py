"""`tapir classifier label|train|score`: the task classifier on its own, in the folder of a run.

    tapir classifier label CONFIG --run-dir RUN          # the teacher labels a sample of the seed data
    tapir classifier train CONFIG --run-dir RUN          # fine-tune on it; accuracy, macro-F1, confusion
    tapir classifier score CONFIG --rows FILE            # of rows whose task is known

A run in the same folder goes on from what these leave.
"""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from tapir_ray.config import Config
from tapir_ray.errors import InputError
from tapir_ray.launch import started
from tapir_ray.sources import list_files
from tapir_ray.stages.classify import load_labels, score_classifier
from tapir_ray.stages.ingest import PARSED, parse_sources
from tapir_ray.steps import classifier, seed
from tapir_ray.steps.prepare import ingest

SCORED_ROWS = "classifier/scored_rows"


def prepare(config: Config, run_dir: str, train: bool) -> None:
    """Ingest and label a sample; with `train` fine-tune the classifier too, and print how well it labels.

    Raises InputError where the config has no classifier to train.
    """
    if config.classify.by != "deberta" or config.classify.label_rows == 0:
        raise InputError("classify.by must be deberta and classify.label_rows above 0 to label rows and train on them")
    with started(config, run_dir) as context:
        ingest(context)
        if not train:
            if not context.run.done("seed/labels"):
                classifier.label_sample(context)
            print(f"{context.run.manifest('seed/labels').rows} labelled rows: {context.run.uri_of('seed/labels')}")
            return
        classifier.train(context)
        show(context.run.read_json(f"{classifier.FOLDER}/report.json"))
        print(f"classifier: {classifier.model(context)}")


def score(config: Config, run_dir: str, rows: str | None, model: str | None) -> None:
    """Print how well a classifier labels the rows of a file, by the task in their `seed_data.task_column`.

    Raises InputError where the file, the column or a classifier is not named or not there, or a row cannot be used.
    """
    column = config.seed_data.task_column
    if rows is None or column is None:
        raise InputError("tapir classifier score needs --rows FILE and seed_data.task_column")
    if model is None and config.classify.by != "deberta":
        raise InputError("tapir classifier score needs --model, or classify.by: deberta to score the run's classifier")
    if model is not None:
        load_labels(model, config.classify.trust_remote_code)
    files = list_files(rows, "--rows")
    with started(config, run_dir, labelled=True) as context:
        if model is None and config.classify.label_rows and not context.run.exists(f"{classifier.FOLDER}/report.json"):
            raise InputError(
                f"{context.run.uri} has no classifier yet: give --model, or run tapir classifier train first"
            )
        parsed = parse_sources(files, config.seed_data.model_copy(update={"limit": None}), context.stage_cpus)
        context.write(SCORED_ROWS, parsed, PARSED, "read the rows")
        seed.check_rows(context, SCORED_ROWS, f"--rows {rows}")
        seed.check_task_column(context, SCORED_ROWS, f"--rows {rows}, column {column}")
        seed.check_tasks(context, SCORED_ROWS, f"column {column} of {rows}")
        chosen = model or classifier.model(context)
        show(score_classifier(context.run.files(SCORED_ROWS), chosen, context.config, context.run.fs).to_dict())


def show(report: dict[str, Any]) -> None:
    """Print accuracy, macro-F1 and the confusion table (true tasks down, predicted across)."""
    console = Console(file=sys.stdout)
    if report["accuracy"] is None:
        console.print("no held-out rows to score on")
        return
    console.print(
        f"{report['holdout_rows']} held-out rows: accuracy {report['accuracy']:.3f}, macro-F1 {report['macro_f1']:.3f}"
    )
    confusion: dict[str, dict[str, int]] = report["confusion"]
    predicted = sorted({label for counts in confusion.values() for label in counts})
    table = Table("true", *predicted, "F1")
    for label, counts in confusion.items():
        shown = [str(counts[name]) if name in counts else "" for name in predicted]
        table.add_row(label, *shown, f"{report['per_label_f1'][label]:.2f}")
    console.print(table)
