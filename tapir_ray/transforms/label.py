"""Label: the teacher names the task of each row.

    labelled = label(rows, config, roles, labels)

A reply counts if it equals a label; case, white space and punctuation are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import ray.data

from tapir_ray.config import Config
from tapir_ray.data import schemas
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import REFUSED
from tapir_ray.llm.prompts import Prompts
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.judge_request import sampling_of, seed_of

UNKNOWN_LABEL = "unknown_label"


def label(
    rows: ray.data.Dataset,
    config: Config,
    roles: Roles,
    labels: Sequence[str],
    schema: pa.Schema = schemas.INSTRUCTIONS,
) -> ray.data.Dataset:
    """Returns `rows` as `schema`, with the teacher's label in the `task` of every ok row.

    A row is asked up to `classify.label_attempts` times, each time with a new seed and, after the first, a higher
    temperature. Then it fails as `unknown_label`, with the last reply. Rows that are not ok pass unchanged.
    """
    function = LabelRow(Prompts(config.prompts.dir), tuple(labels), config.classify.label_attempts)
    return roles.ask(rows, function, schema)


@dataclass(frozen=True)
class LabelRow:
    """The AskRow of `label`."""

    prompts: Prompts
    labels: tuple[str, ...]
    attempts: int

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != schemas.OK:
            return row
        instruction = schemas.text_of(row["messages"])
        prompt = self.prompts.render("label", labels=self.labels, instruction=instruction)
        text = ""
        for attempt in range(self.attempts):
            seed = seed_of(row["instruction_id"], "label", str(attempt))
            reply = await clients["teacher"].chat(
                [{"role": "user", "content": prompt}],
                sampling=sampling_of(clients["teacher"], attempt),
                seed=seed,
                kind="label",
            )
            if reply.status == schemas.FAILED or reply.reason == REFUSED:
                return {**row, "status": reply.status, "reason": reply.reason}
            text = reply.text or ""
            # A cut-off reply may be the beginning of another, longer label.
            task = parse_label(text, self.labels) if reply.status == schemas.OK else None
            if task is not None:
                return {**row, "task": task}
            clients["teacher"].reject(reply)
        return {**row, "status": schemas.FAILED, "reason": f"{UNKNOWN_LABEL}: {' '.join(text.split())[:100]}"}


def parse_label(text: str, labels: Sequence[str]) -> str | None:
    """Returns the label that `text` equals, ignoring case, spaces and punctuation; None if it equals none."""
    # Only the whole reply counts: a sentence that mentions a label may reject it.
    return {_bare(name): name for name in labels}.get(_bare(text))


def _bare(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()
