"""Texts of the seed data, streamed, to train the tokenizer of a model that is made on the spot."""

from __future__ import annotations

from collections.abc import Iterator

from tapir_ray.data.schemas import OK, text_of
from tapir_ray.run.layout import Table
from tapir_ray.steps.context import Context

MOST_ROWS = 50_000


def seed_table(context: Context) -> Table:
    """`seed/ingested`, or `seed/instructions` where the run began with the user's own labelled rows."""
    ingested = context.loop.ingested
    return ingested if context.run.done(ingested) else context.loop.instructions


def of_seed(context: Context, responses: bool = False) -> Iterator[str]:
    """Instructions (and responses) of up to MOST_ROWS ok seed rows; never of the holdout."""
    seen = 0
    for batch in context.run.scan(seed_table(context), ["messages", "response", "status", "split"]):
        for row in batch.to_pylist():
            if row["status"] != OK or row["split"] != "seed":
                continue
            yield text_of(row["messages"])
            if responses and row["response"]:
                yield row["response"]
            seen += 1
            if seen == MOST_ROWS:
                return
