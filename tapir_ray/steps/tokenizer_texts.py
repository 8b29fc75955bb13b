"""Texts of the seed data for training the tokenizer of a new model (`student.create`, `classify.create`)."""

from __future__ import annotations

from collections.abc import Iterator

from tapir_ray.data.schemas import OK, text_of
from tapir_ray.run.layout import Table
from tapir_ray.steps.context import Context

MOST_ROWS = 50_000


def seed_table(context: Context) -> Table:
    """Returns `seed/ingested`, or `seed/instructions` if the run began with imported labelled rows."""
    ingested = context.loop.ingested
    return ingested if context.run.done(ingested) else context.loop.instructions


def of_seed(context: Context, responses: bool = False) -> Iterator[str]:
    """Yields instructions (and responses) of up to MOST_ROWS ok seed rows, without the holdout."""
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
