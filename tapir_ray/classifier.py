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
from tapir_ray.records import INSTRUCTIONS
from tapir_ray.sources import list_files
from tapir_ray.stages.classify import score_classifier
from tapir_ray.stages.ingest import parse_sources
from tapir_ray.steps import classifier
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
            print(f"{context.run.manifest('seed/labels').rows} labelled rows: {context.run.uri}/seed/labels")
            return
        classifier.train(context)
        show(context.run.read_json(f"{classifier.FOLDER}/report.json"))
        print(f"classifier: {classifier.model(context)}")


def score(config: Config, run_dir: str, rows: str | None, model: str | None) -> None:
    """Print how well a classifier labels the rows of a file, by the task in their `seed_data.task_column`.

    Raises InputError where the file or the column is not named, or a task is not in the taxonomy.
    """
    if rows is None or config.seed_data.task_column is None:
        raise InputError("tapir classifier score needs --rows FILE and seed_data.task_column")
    files = list_files(rows)
    with started(config, run_dir) as context:
        parsed = parse_sources(files, config.seed_data.model_copy(update={"limit": None}), context.stage_cpus)
        context.write(SCORED_ROWS, parsed, INSTRUCTIONS, "read the rows")
        for batch in context.run.scan(SCORED_ROWS, ["task"]):
            for task in set(batch["task"].to_pylist()) - {None}:
                context.taxonomy.check(task, f"column {config.seed_data.task_column} of {rows}")
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
