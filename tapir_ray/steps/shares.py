"""Shares of a table that the filters drop, by reason: reported with examples; too large a share stops the run."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as pads

from tapir_ray.data.schemas import FILTERED, HOLDOUT, OK
from tapir_ray.data.words import clipped
from tapir_ray.errors import StageError, TapirError
from tapir_ray.run.layout import Table
from tapir_ray.steps.context import Context
from tapir_ray.transforms.filters import advice_on

LEAST_ROWS = 20
"""Tables with fewer rows are not checked: one row would be more than 5 %."""
EXAMPLES, EXAMPLE_CHARS = 3, 80
SHOWN = ("draw_id", "instruction_id", "source", "messages", "reason")
EVENT = "filter_share"


def judge(
    context: Context, table: Table, before: Table, contaminated: Table, error: type[TapirError] = StageError
) -> dict[str, float]:
    """Reports every reason with a share above `filter.warn_share`, once; returns {reason: share} of them.

    A share is of the ok rows of `before` without the holdout. Rows that were filtered in `before`, and failed rows, do
    not count. The table `contaminated` explains the examples of contaminated rows. Each report is an event of the run
    as well. Raises `error` if a share is above `filter.max_share`; the tables stay.
    """
    run, settings = context.run, context.config.filter
    was, made = run.manifest(before), run.manifest(table)
    dropped = {reason: count - was.reasons.get(reason, 0) for reason, count in made.reasons.items()}
    rows = was.count(OK) - _held(context, table)
    if rows < LEAST_ROWS:
        return {}
    shares = {reason: count / rows for reason, count in dropped.items() if count > settings.warn_share * rows}
    shares |= {reason: count / rows for reason, count in dropped.items() if count > settings.max_share * rows}
    # A restart must not report the same share again.
    told = {event["reason"] for event in run.events(EVENT) if event["table"] == table.path}
    for reason, share in shares.items():
        if reason not in told:
            shown = examples(context, table, reason, contaminated)
            head = f"{table}: {dropped[reason]:,} of {rows:,} rows ({share:.0%}) are filtered as {reason}, such as"
            context.progress.say("\n  ".join([head, *shown]))
            run.event(EVENT, table=table.path, reason=reason, rows=dropped[reason], of=rows, examples=shown)
    for reason, share in shares.items():
        if share > settings.max_share:
            raise error(
                f"{table}: {dropped[reason]:,} of {rows:,} rows ({share:.0%}) are filtered as {reason}, more than "
                f"filter.max_share {settings.max_share:g}, such as "
                f"{examples(context, table, reason, contaminated)[0]}; "
                f"{advice_on(reason)}, or set filter.max_share: 1 to continue without them"
            )
    return shares


def examples(context: Context, table: Table, reason: str, contaminated: Table) -> list[str]:
    """Returns up to three rows filtered for the reason, each with its place, first words and match."""
    run = context.run
    rows = pads.dataset(run.files(table), filesystem=run.fs, format="parquet")
    wanted = (pads.field("status") == FILTERED) & _is(reason)
    columns = [name for name in SHOWN if name in rows.schema.names]
    # Small batches without read-ahead: `head` needs three rows of a table that may have millions.
    found = rows.scanner(columns=columns, filter=wanted, batch_size=1024, batch_readahead=1).head(EXAMPLES).to_pylist()
    matches: dict[str, Any] = {}
    if run.done(contaminated):
        listed = pads.dataset(run.files(contaminated), filesystem=run.fs, format="parquet")
        mine = pads.field("instruction_id").isin([row["instruction_id"] for row in found])
        matches = {row["instruction_id"]: row for row in listed.to_table(filter=mine).to_pylist()}
    return sorted(_example(row, matches.get(row["instruction_id"])) for row in found)


def _is(reason: str) -> Any:
    return (pads.field("reason") == reason) | pc.starts_with(pads.field("reason"), f"{reason}:")


def _example(row: dict[str, Any], match: dict[str, Any] | None) -> str:
    place = row["source"] if row["source"] not in (None, "generated") else row.get("draw_id") or row["instruction_id"]
    turns = [turn for turn in row["messages"] or [] if turn["role"] != "system"]
    text = clipped(" / ".join(turn["content"] for turn in turns), EXAMPLE_CHARS)
    shown = f"{place}: {text!r}: {row['reason']}"
    if match is None or match["item_source"] is None:
        return shown
    return f"{shown} of {match['item_source']}, by {clipped(match['shared_text'], EXAMPLE_CHARS)!r}"


def _held(context: Context, table: Table) -> int:
    """Returns the number of ok holdout rows, which the filters skip."""
    run, held = context.run, 0
    names = pads.dataset(run.files(table), filesystem=run.fs, format="parquet").schema.names
    for batch in run.scan(table, ["split", "status"]) if "split" in names else ():
        is_held = pc.and_(pc.equal(batch["split"], HOLDOUT), pc.equal(batch["status"], OK))
        held += pc.sum(is_held).as_py() or 0
    return held
