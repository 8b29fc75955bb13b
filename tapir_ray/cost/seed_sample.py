"""Reads the seed file without Ray: counts of all rows, and a random sample.

seed = read_seed(config)        # InputError for malformed rows, as in the run
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tapir_ray.config import Config
from tapir_ray.data.files import find_seed
from tapir_ray.data.formats import Ambiguous, Malformed, Unsupported, parse
from tapir_ray.data.readers import read_raw
from tapir_ray.data.schemas import instruction_id, order_key
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.transforms.column_notes import NOT_READ, ColumnNotes, no_response, note, refuse_missing

SAMPLE = 4_000
"""Most rows of the sample."""


@dataclass
class Seed:
    """Counts and sample of the usable rows: well-formed, distinct, and with an answer if answers are kept."""

    usable: int = 0
    unanswered: int = 0
    strata: Counter[str] = field(default_factory=Counter)
    """Usable rows by the values of `holdout.stratify_by`."""
    notes: ColumnNotes = field(default_factory=ColumnNotes)
    """Columns that nothing uses, and missing ones."""
    sample: list[dict[str, Any]] = field(default_factory=list)
    """Usable rows in random order: instruction_id, messages, response, task, stratum."""

    def held_out(self, config: Config) -> dict[str, int]:
        """Returns the number of holdout rows by stratum."""
        wanted = -(-config.holdout.rows // max(1, len(self.strata)))
        return {name: min(wanted, int(rows * config.holdout.max_share)) for name, rows in self.strata.items()}


def read_seed(config: Config) -> Seed:
    """Returns counts and sample of the config's seed data. Raises InputError if the run would refuse it."""
    settings, seed = config.seed_data, Seed()
    # A heap of the SAMPLE smallest hashes: a random sample in one pass, the same in every check.
    heap: list[tuple[int, dict[str, Any]]] = []
    seen: set[bytes] = set()
    first_reason = ""
    for row_number, (place, raw) in enumerate(
        pair for file in find_seed(settings).files for pair in read_raw(file, settings.revision)
    ):
        if settings.limit is not None and row_number == settings.limit:
            break
        try:
            conversations = parse(raw, settings.format, settings.turns, settings.mapped)
        except Unsupported as error:
            seed.notes.add(NOT_READ)
            first_reason = first_reason or f"{place}: {error}"
            continue
        except Ambiguous as error:
            raise InputError(f"seed_data.path {settings.path}: {place}: {error}") from None
        except Malformed as error:
            if settings.skip_malformed:
                seed.notes.add(NOT_READ)
                first_reason = first_reason or f"{place}: {error}"
                continue
            raise InputError(
                f"seed_data.path {settings.path}: {place}: {error}; fix the file, or set seed_data.skip_malformed: "
                "true to filter such rows"
            ) from None
        seed.notes.add(note(raw, conversations[0].unused, settings))
        for conversation in conversations:
            row_id = instruction_id(conversation.messages)
            if bytes.fromhex(row_id) in seen or (settings.responses == "keep" and conversation.response is None):
                continue
            seen.add(bytes.fromhex(row_id))
            seed.usable += 1
            seed.unanswered += conversation.response is None
            stratum = json.dumps([conversation.meta.get(column) for column in config.holdout.stratify_by])
            seed.strata[stratum] += 1
            task = conversation.meta.get(settings.task_column) if settings.task_column else None
            row = {
                "instruction_id": row_id,
                "messages": conversation.messages,
                "response": conversation.response,
                "task": None if task is None else one_line(task) or None,
                "stratum": stratum,
                "status": "ok",
            }
            key = -int(order_key(row_id, config.random_seed, "sample")[:15], 16)
            if len(heap) < SAMPLE:
                heapq.heappush(heap, (key, row))
            elif key > heap[0][0]:
                heapq.heapreplace(heap, (key, row))
    if not seed.usable:
        if seed.notes.read:
            raise InputError(f"seed_data.path {settings.path}: {no_response(seed.notes)}")
        why = f" among {seed.notes.rows}; the first: {first_reason}" if first_reason else ", as it has no rows"
        raise InputError(f"seed_data.path {settings.path}: no usable row{why}")
    refuse_missing(seed.notes, settings, f"seed_data.path {settings.path}")
    seed.notes.forget([settings.task_column, *config.holdout.stratify_by])
    seed.sample = [row for _, row in sorted(heap, key=lambda entry: -entry[0])]
    return seed
