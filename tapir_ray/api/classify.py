"""`tapir.classify`: the task of each row.

tapir.classify(rows, "mine.yaml")["task"]                                   # the teacher names it
tapir.classify(rows, "mine.yaml", model="runs/mine/classifier/model")       # a trained classifier does
"""

from __future__ import annotations

import pyarrow as pa

from tapir_ray.api.asking import ROW, asked, asking, config_for_rows
from tapir_ray.api.caller import Caller, Tell, ignore, logged
from tapir_ray.api.configs import ConfigLike, content_of
from tapir_ray.api.rows import Rows, arrow_of, conversations
from tapir_ray.cluster.session import session
from tapir_ray.config import Config
from tapir_ray.curriculum import tasks
from tapir_ray.data.schemas import INSTRUCTIONS, with_columns
from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.classify import classify as classified
from tapir_ray.transforms.classify import load_labels
from tapir_ray.transforms.label import LabelRow

ADDED = ("task", "task_prob", "status", "reason")
"""Columns that the labelling adds."""


def classify(rows: Rows, config: ConfigLike, *, model: str | None = None, tell: Tell | None = None) -> pa.Table:
    """Returns the rows with their `task`, as an Arrow table in the same order.

    Without a `model` the teacher of the config names the task, one of `curriculum.tasks`. A `model` (folder or HF name
    of a sequence classification model) gives `task_prob` too, 0 to 1, and asks nobody.

    `rows`: a path, a list of dicts, an Arrow table, a pandas frame, or a dataset of Hugging Face or Ray, with columns
    as in the seed data (docs/data.md). Of `config`, `teacher`, `curriculum.tasks`, `budget` and `cache` are used; keys
    that only a run needs have no effect and may be missing. `status` is `ok`, or `failed` with a `reason`; then `task`
    is null.

    Raises InputError for rows, a model or an endpoint that cannot be used, and Stopped if the budget is used up.
    """
    table = arrow_of(rows)
    settings = content_of(config).get("classify")
    settings = settings if isinstance(settings, dict) else {}
    if model is None:
        read = {key: settings[key] for key in ("label_attempts",) if key in settings}
        section = {"by": "teacher", **read}
    else:
        read = {key: settings[key] for key in ("max_length", "batch_size", "trust_remote_code") if key in settings}
        section = {"by": "deberta", "model": model, "label_rows": 0, **read}
    given = config_for_rows(config, "curriculum", classify=section)
    found = [{**row, "task": None} for row in conversations(table)]
    caller = Caller(tell or ignore)
    if model is not None:
        load_labels(model, given.classify.trust_remote_code)
        labelled = _by_model(found, model, given, caller)
    else:
        labels = tuple(tasks.load(given.curriculum).labels)
        function = LabelRow(Prompts(given.prompts.dir), labels, given.classify.label_attempts)
        with asking(given, caller) as roles:
            labelled = asked(roles, found, function, INSTRUCTIONS)
    return with_columns(table, **{name: labelled[name] for name in ADDED})


def _by_model(rows: list[dict[str, object]], model: str, config: Config, caller: Caller) -> pa.Table:
    import ray.data

    schema = pa.schema([*INSTRUCTIONS, ROW])
    table = pa.Table.from_pylist([{**row, ROW.name: number} for number, row in enumerate(rows)], schema=schema)
    if not rows:
        return table
    with logged(caller), session(config, caller.signals):
        blocks = ray.get(classified(ray.data.from_arrow(table), model, config).to_arrow_refs())
    return pa.concat_tables([block for block in blocks if len(block)]).sort_by(ROW.name)
