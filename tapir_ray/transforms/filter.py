"""What a generated instruction must pass before an answer is paid for. Rows are marked, never dropped.

    holdout = contamination_index(holdout_rows, config)
    marked = filter_generated(rows, config, {"holdout": holdout}, work_dir, earlier=[seed_bands])

Reasons, the first that applies: `empty`, `over_long`, `prompt_leakage`, `other_task: LABEL`, what a user's function
returns, `contamination_holdout: KIND` and `contamination_evaluation: KIND` (KIND: exact, near_duplicate, ngram),
`duplicate: ID`, `near_duplicate: ID`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from tapir_ray.config import Config
from tapir_ray.config.registry import resolve
from tapir_ray.data import dedup
from tapir_ray.data.contamination_index import ContaminationIndex
from tapir_ray.data.dedup import replace_status
from tapir_ray.data.ngrams import NO_BOILERPLATE, Boilerplate
from tapir_ray.data.schemas import OK, text_of
from tapir_ray.data.words import width
from tapir_ray.llm.prompts import Prompts

LEAK_CHARS = 30
"""Width of a part of the expansion prompt (half as many Chinese characters) from which on, found in an instruction, it
is the prompt and not its answer."""
ITEM_ORDER = ("source", "instruction_id")
"""Of the items of an index."""

RowFilter = Callable[[dict[str, Any]], str | None]
"""A user's filter: a row in, a reason to drop it (a short snake_case word) or None out."""


def contamination_index(
    rows: ray.data.Dataset, config: Config, boilerplate: Boilerplate = NO_BOILERPLATE
) -> ray.ObjectRef:
    """A reference to the ContaminationIndex of the ok rows' `messages` (of a holdout, an evaluation set); one Ray task.

    Its items are these rows, by rising `source` and `instruction_id` if they have these columns.
    """
    build = ray.remote(_build_index).options(num_cpus=config.resources.transform_cpus)
    blocks = _mapped(rows, _index_columns, config).to_arrow_refs()
    found: ray.ObjectRef = build.remote(config.filter.ngram, config.filter.near_duplicate, boilerplate, *blocks)
    return found


def mark_contaminated(rows: ray.data.Dataset, indexes: Mapping[str, ray.ObjectRef], config: Config) -> ray.data.Dataset:
    """`rows` with what overlaps an index marked `contamination_NAME: KIND`; NAME is its key, `holdout` or `evaluation`.

    For any rows with `messages`, `status` and `reason`: the seed data against the holdout as well.
    """
    return _mapped(rows, functools.partial(_mark_contaminated, indexes=dict(indexes)), config)


def filter_generated(
    rows: ray.data.Dataset,
    config: Config,
    indexes: Mapping[str, ray.ObjectRef],
    work_dir: str,
    earlier: Sequence[str],
    boilerplate: Boilerplate = NO_BOILERPLATE,
) -> ray.data.Dataset:
    """All filters of a round's generated rows; every row comes out, those not of status ok untouched.

    `rows` need `draw_id`, `round`, `instruction_id`, `messages`, `task`, `status` and `reason`. With the classifier's
    columns `task_predicted` and `task_prob` the task is checked. `work_dir` receives the bands of the rows that pass
    the other filters; `earlier` are the folders of the seed data and of earlier rounds. Of two duplicates the one of
    lower (round, draw id) stays. Runs at once up to the join, with the rows in the object store, so that a filter sees
    each row once. Raises InputError for an unknown function.
    """
    checked = check_rows(rows, config)
    ordered = _mapped(mark_contaminated(checked, indexes, config), with_order, config).materialize()
    marked = dedup.mark_near_duplicates(
        ordered, work_dir, earlier, config.filter.near_duplicate, config.resources.transform_cpus, boilerplate
    )
    return marked.drop_columns(["order"])


def mark_repeats(
    rows: ray.data.Dataset, config: Config, work_dir: str, boilerplate: Boilerplate = NO_BOILERPLATE
) -> ray.data.Dataset:
    """Instruction rows (which must be stored) with those filtered that are like one of a lower id; all else stays.

    `work_dir` receives the bands. Runs at once up to the join.
    """
    ordered = _mapped(rows, with_order, config)
    marked = dedup.mark_near_duplicates(
        ordered, work_dir, [], config.filter.near_duplicate, config.resources.transform_cpus, boilerplate
    )
    return marked.drop_columns(["order"])


def seed_bands(rows: ray.data.Dataset, config: Config, out_dir: str, boilerplate: Boilerplate = NO_BOILERPLATE) -> str:
    """Writes the bands of instruction rows (the seed data), which come before every round; returns `out_dir`."""
    ordered = _mapped(rows.select_columns(["instruction_id", "messages", "status"]), with_order, config)
    return dedup.bands(ordered, out_dir, config.filter.near_duplicate, config.resources.transform_cpus, boilerplate)


def check_rows(rows: ray.data.Dataset, config: Config) -> ray.data.Dataset:
    """The filters that look at one row alone."""
    functions = {spec: resolve(spec, {}, what="filter.functions") for spec in config.filter.functions}
    return _mapped(rows, functools.partial(check_table, config=config, functions=functions), config)


def with_order(rows: pa.Table) -> pa.Table:
    """`rows` with the unique string `order`: round and draw id; rows without a draw id, the seed data, come first."""
    if "draw_id" not in rows.column_names:
        return rows.append_column("order", pc.binary_join_element_wise("0000", rows["instruction_id"], "-"))
    number = pc.utf8_lpad(rows["round"].cast(pa.string()), 4, "0")
    return rows.append_column("order", pc.binary_join_element_wise(number, rows["draw_id"], "-"))


def check_table(rows: pa.Table, config: Config, functions: Mapping[str, RowFilter]) -> pa.Table:
    """A table with the rows that fail a filter of their own marked."""
    leaks = prompt_lines(Prompts(config.prompts.dir))
    reasons: list[str | None] = [None] * len(rows)
    for index, row in enumerate(rows.to_pylist()):
        if row["status"] == OK:
            reasons[index] = _reason(row, config, leaks) or next(
                (reason for function in functions.values() if (reason := function(row))), None
            )
    return _marked(rows, reasons)


def prompt_lines(prompts: Prompts) -> list[str]:
    """The fixed parts of the expansion prompt's lines that give it away, lower-case."""
    lines = prompts.render("expand", task="\0", instruction="\0", text_id="\0").lower().splitlines()
    return [part.strip() for line in lines for part in line.split("\0") if width(part.strip()) >= LEAK_CHARS]


def _reason(row: Mapping[str, Any], config: Config, leaks: Sequence[str]) -> str | None:
    messages = row["messages"] or []
    if not messages or not all(message["content"].strip() for message in messages if message["role"] == "user"):
        return "empty"
    text = text_of(messages)
    if len(text) > config.filter.max_chars:
        return "over_long"
    lowered = text.lower()
    if "new_instruction>" in lowered or any(line in lowered for line in leaks):
        return "prompt_leakage"
    predicted = row.get("task_predicted")
    sure = (row.get("task_prob") or 0.0) >= config.classify.min_task_prob
    if config.filter.other_task and predicted is not None and predicted != row["task"] and sure:
        return f"other_task: {predicted}"
    return None


def _mark_contaminated(rows: pa.Table, indexes: Mapping[str, ray.ObjectRef]) -> pa.Table:
    for name, reference in indexes.items():
        index: ContaminationIndex = ray.get(reference)
        is_ok = pc.equal(rows["status"], OK).to_numpy()
        kinds = iter(index.contaminated(rows["messages"].filter(pa.array(is_ok)).to_pylist()))
        reasons = [f"contamination_{name}: {kind}" if ok and (kind := next(kinds)) else None for ok in is_ok]
        rows = _marked(rows, reasons)
    return rows


def _index_columns(rows: pa.Table) -> pa.Table:
    rows = rows.filter(pc.equal(rows["status"], OK))
    return rows.select([name for name in ("messages", *ITEM_ORDER) if name in rows.column_names])


def _build_index(ngram: int, threshold: float, boilerplate: Boilerplate, *blocks: pa.Table) -> ContaminationIndex:
    kept = [block for block in blocks if len(block)]
    rows = pa.concat_tables(kept) if kept else pa.table({"messages": []})
    if set(ITEM_ORDER) <= set(rows.column_names):
        rows = rows.sort_by([(name, "ascending") for name in ITEM_ORDER])
    sources = rows["source"].to_pylist() if "source" in rows.column_names else []
    return ContaminationIndex.build(rows["messages"].to_pylist(), ngram, threshold, boilerplate, sources)


def _marked(rows: pa.Table, reasons: list[str | None]) -> pa.Table:
    reason = pa.array(reasons, pa.string())
    return replace_status(rows, pc.is_valid(reason), reason)


def _mapped(rows: ray.data.Dataset, function: Callable[[pa.Table], pa.Table], config: Config) -> ray.data.Dataset:
    return rows.map_batches(function, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.transform_cpus)
