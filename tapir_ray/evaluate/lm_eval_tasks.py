"""Tasks of lm-evaluation-harness: found by name, loaded, and turned into items of a suite.

    tasks = load_tasks("arc_easy,hellaswag", config.evaluate.lm_eval)     # {"arc_easy": Task, "hellaswag": Task}
    rows = items(tasks, limit=100)

Data sets are loaded as the task's file says: from the hub, its cache, or local files. HF_DATASETS_OFFLINE=1 and
HF_HUB_OFFLINE=1 keep the hub out.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tapir_ray.config.checked_suites import LmEval
from tapir_ray.data.schemas import OK, SCORED, instruction_id
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError

INCLUDE_PATH = "evaluate.lm_eval.include_path"
FEWSHOT_SEED = 1234
"""Seed that the harness draws the examples before a question with."""
DOC_ID, DOC, METRICS, AGGREGATIONS = "doc_id", "doc", "metrics", "aggregations"
SCHEMA = pa.schema(
    [*SCORED, (DOC_ID, pa.int64()), (DOC, pa.string()), (METRICS, pa.string()), (AGGREGATIONS, pa.string())]
)
"""`doc_id`: position in the task's data. `doc`: JSON of the data's row. `metrics`: JSON of the harness's values for the
item, by metric (and filter, as `exact_match,strict-match`). `aggregations`: JSON of the names of the functions that
turn the values of all items into a figure."""


def check_tasks(argument: str, settings: LmEval) -> None:
    """Checks the names of tasks. Loads no data. Raises InputError for an unknown name and without the package."""
    _manager(tuple(argument.split(",")), settings.include_path)


def load_tasks(argument: str, settings: LmEval) -> dict[str, Any]:
    """Returns the tasks of `TASK,TASK` by name; those of a group or tag one by one. Cached in the process.

    Raises InputError for an unknown name, data that cannot be loaded, and tasks that cannot be measured here.
    """
    return _loaded(tuple(argument.split(",")), settings.include_path, settings.num_fewshot)


@functools.lru_cache(maxsize=4)
def _loaded(names: tuple[str, ...], include_path: str | None, num_fewshot: int | None) -> dict[str, Any]:
    manager = _manager(names, include_path)
    try:
        tasks: dict[str, Any] = manager.load(list(names))["tasks"]
    except Exception as error:
        raise InputError(
            f"evaluate.suites: the data of lm_eval:{','.join(names)} cannot be loaded ({one_line(error)}): load it "
            "once with a network, or name a task with local data_files"
        ) from error
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError(f"evaluate.suites: {name} runs code that the model writes, so it is refused: leave it out")
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"evaluate.suites: {name} has images, and the student reads text: leave it out")
        own = task.get_config("num_fewshot")
        # As the harness does: a task that sets 0 itself is not changed.
        if num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(FEWSHOT_SEED)
    return tasks


def _manager(names: tuple[str, ...], include_path: str | None) -> Any:
    """Returns the harness's index of tasks that has all names: of the user's folder alone if that has them."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(
            f"evaluate.suites: lm_eval needs the package lm-eval ({error}): pip install 'tapir-ray[lm-eval]'"
        ) from error
    if include_path is not None and not Path(include_path).is_dir():
        raise InputError(f"{INCLUDE_PATH} {include_path} is not a folder: name one with task files (YAML)")
    # Its own index has some 15,000 tasks, which take seconds to read.
    for defaults in (False, True) if include_path is not None else (True,):
        manager = TaskManager(include_path=include_path, include_defaults=defaults)
        unknown = [name for name in names if name not in manager.all_tasks]
        if not unknown:
            return manager
    raise InputError(
        f"evaluate.suites: lm-evaluation-harness has no task {unknown[0]!r}: `lm_eval ls tasks` lists all, and "
        f"{INCLUDE_PATH} names a folder with your own"
    )


def items(tasks: Mapping[str, Any], limit: int | None) -> list[dict[str, Any]]:
    """Returns the items of tasks as rows of SCHEMA, at most `limit` of each task. `messages` has the question alone."""
    return [
        item(name, task, doc_id, doc)
        for name, task in tasks.items()
        for doc_id, doc in enumerate(itertools.islice(task.eval_docs, limit))
    ]


def count(tasks: Mapping[str, Any], limit: int | None) -> int:
    """Returns the number of items, at most `limit` of each task."""
    lengths = (len(task.eval_docs) for task in tasks.values())
    return sum(length if limit is None else min(length, limit) for length in lengths)


def item(name: str, task: Any, doc_id: int, doc: Any) -> dict[str, Any]:
    content = json.dumps(doc, ensure_ascii=False, default=str)
    question, target = task.doc_to_text(doc), _text(task.doc_to_target(doc))
    # The harness gives the position of the right context for some tasks (winogrande).
    asked = question if isinstance(question, str) else content
    return {
        # A data set may have a row twice, so its position is part of the id.
        "instruction_id": instruction_id([{"role": f"{name}/{doc_id}", "content": content}]),
        # Tasks that measure the likelihood of a whole text have no question.
        "messages": [{"role": "user", "content": asked or target}],
        "response": target,
        "task": name,
        "status": OK,
        DOC_ID: doc_id,
        DOC: content,
    }


def _text(target: Any) -> str:
    return target if isinstance(target, str) else json.dumps(target, ensure_ascii=False, default=str)
