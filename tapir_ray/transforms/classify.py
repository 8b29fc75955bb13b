"""Classify: labels every row with a task, by a sequence classification model.

    rows = classify(rows, "microsoft/deberta-v3-base-tasks", config)                          # task, task_prob
    rows = classify(rows, model, config, columns=("task_predicted", "task_prob"))             # keeps the column task

Runs in an actor pool of Ray Data. Rows of similar length run together, which saves padding.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs as pafs

from tapir_ray.config import Classify, Config
from tapir_ray.data import schemas
from tapir_ray.errors import InputError
from tapir_ray.run.model_store import local
from tapir_ray.train.classifier import ClassifierReport, measure, parquet_files

if TYPE_CHECKING:
    from ray.data import Dataset

WINDOW = 1024
"""Rows that are sorted by length together: many batches, so that the rows of a batch differ little in length."""


def classify(
    rows: Dataset,
    model: str,
    config: Config,
    *,
    columns: tuple[str, str] = ("task", "task_prob"),
    window: int = WINDOW,
) -> Dataset:
    """Returns the rows with a label (string) and its probability (0..1) in the two named columns. Lazy.

    Only rows that are `ok` or have no status are labelled; others keep their values in these columns, or get null.
    `model` is an HF name or folder. Texts are truncated to `classify.max_length` tokens.

    A worker waits for `window` rows, or `classify.batch_size` if that is more. A small window passes slowly arriving
    rows on sooner; a large one needs less padding.
    """
    import ray.data

    workers = config.resources.classifier
    kind: dict[str, Any] = {"accelerator_type": workers.accelerator_type} if workers.accelerator_type else {}
    return rows.map_batches(
        _Labeller,
        fn_constructor_args=(model, config.classify, columns, max(1, int(workers.cpus)), workers.gpus > 0),
        # Actors, because every worker loads the model once.
        compute=ray.data.ActorPoolStrategy(min_size=workers.fewest, max_size=workers.replicas),
        batch_size=max(window, config.classify.batch_size),
        batch_format="pyarrow",
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        **kind,
    )


class _Labeller:
    """Worker of the actor pool: holds the model and labels one table a call."""

    def __init__(self, model: str, settings: Classify, columns: tuple[str, str], threads: int, gpu: bool) -> None:
        from tapir_ray.train.sequence_classifier import SequenceClassifier

        self._columns = columns
        self._batch_size = settings.batch_size
        self._model = SequenceClassifier(
            model,
            max_length=settings.max_length,
            threads=threads,
            gpu=gpu,
            trust_remote_code=settings.trust_remote_code,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        statuses = table["status"].to_pylist() if "status" in table.column_names else [None] * len(table)
        positions = [index for index, status in enumerate(statuses) if status in (None, schemas.OK)]
        messages = table["messages"].take(pa.array(positions, pa.int64())).to_pylist()
        encoded = self._model.encode([schemas.text_of(conversation) for conversation in messages])
        outputs, probabilities = self._model.predict(encoded, self._batch_size)
        names = self._model.labels
        label_column, probability_column = self._columns
        table = _fill(table, label_column, pa.string(), positions, [names[output] for output in outputs])
        return _fill(table, probability_column, pa.float64(), positions, probabilities)


def _fill(table: pa.Table, column: str, kind: pa.DataType, positions: Sequence[int], values: Sequence) -> pa.Table:
    """Returns `table` with `values` at `positions` of `column`; a missing column is added."""
    present = column in table.column_names
    filled = table[column].to_pylist() if present else [None] * len(table)
    for position, value in zip(positions, values, strict=True):
        filled[position] = value
    array = pa.array(filled, kind)
    if present:
        return table.set_column(table.column_names.index(column), column, array)
    return table.append_column(column, array)


def load_labels(model: str, trust_remote_code: bool = False) -> list[str]:
    """Returns the labels of a classification model (HF name, folder or URI), in the order of its outputs.

    Raises InputError if `model` does not exist or has no labels.
    """
    file = Path(local(model)) / "config.json"
    if file.is_file():
        # Read without transformers: its import takes seconds, and a config.json is enough.
        names = json.loads(file.read_text()).get("id2label") or {}
    else:
        from transformers import AutoConfig

        try:
            names = AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code).id2label
        except (OSError, ValueError) as error:
            raise InputError(
                f"classify.model {model} is neither a model folder nor a HF name that can be read"
            ) from error
    if not names:
        raise InputError(f"classify.model {model} has no id2label in its config.json: give a fine-tuned classifier")
    # Keys are strings in config.json and integers in an AutoConfig; "10" must sort after "9".
    return [names[key] for key in sorted(names, key=int)]


def check_labels(model_labels: Sequence[str], taxonomy_labels: Sequence[str]) -> None:
    """Raises InputError if the classifier has a label that is not in the taxonomy."""
    unknown = [label for label in model_labels if label not in set(taxonomy_labels)]
    if unknown:
        raise InputError(
            f"classify.model gives the label {unknown[0]!r}{f' (and {len(unknown) - 1} more)' if unknown[1:] else ''}, "
            "which is not in curriculum.tasks: name a taxonomy that has it, fine-tune the model on this taxonomy with "
            "classify.label_rows, or correct id2label in its config.json"
        )


def score_classifier(
    rows: str | Sequence[str], model: str, config: Config, fs: pafs.FileSystem | None = None
) -> ClassifierReport:
    """Measures `model` against the column `task` of Parquet files (a folder or a list of files); returns the report.

    All ok rows with a task are scored. Raises InputError if there are no files.
    """
    import ray.data

    started = time.monotonic()
    filesystem = fs or pafs.LocalFileSystem()
    cpus = config.resources.transform_cpus
    table = ray.data.read_parquet(
        parquet_files(rows, filesystem),
        filesystem=filesystem,
        columns=["instruction_id", "messages", "task", "status"],
        num_cpus=cpus,
    )
    labelled = classify(table, model, config, columns=("task_predicted", "task_prob"))
    pairs: Counter[tuple[str, str]] = Counter()
    for count in labelled.map_batches(_count_pairs, batch_format="pyarrow", num_cpus=cpus).iter_rows():
        pairs[count["task"], count["task_predicted"]] += count["rows"]
    measured = measure(pairs)
    return ClassifierReport(
        rows=measured["holdout_rows"],
        train_rows=0,
        seconds=time.monotonic() - started,
        start_seconds=0.0,
        folder=model,
        **measured,
    )


def _count_pairs(table: pa.Table) -> pa.Table:
    """Returns one row for each pair of labels in the batch: task, task_predicted, rows."""
    pairs = Counter(
        (true, predicted)
        for true, predicted in zip(table["task"].to_pylist(), table["task_predicted"].to_pylist(), strict=True)
        if true is not None and predicted is not None
    )
    schema = pa.schema([("task", pa.string()), ("task_predicted", pa.string()), ("rows", pa.int64())])
    return pa.Table.from_pylist(
        [{"task": true, "task_predicted": predicted, "rows": rows} for (true, predicted), rows in pairs.items()], schema
    )
