"""Prefer: keeps the better of two answers, the file's and the teacher's new one, by the judge's scores.

    chosen = prefer(rows, config, roles, REGENERATED)

The new answer must score higher. The old one is kept on a tie, if the teacher gave no usable answer, and if the request
was too long for the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import ray.data

from tapir_ray.config import Config
from tapir_ray.data import schemas
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import too_long
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.judge import JudgeRow

OLD, NEW = "old", "new"
NOT_OF_THE_OLD = ("reasoning", "teacher_model", "prompt_hash", "sampling", "style", "answer_score")
"""Columns that describe the new answer."""


def prefer(rows: ray.data.Dataset, config: Config, roles: Roles, schema: pa.Schema) -> ray.data.Dataset:
    """Returns `rows` as `schema`, with the better of `response` and `other_response` in `response`.

    Sets new_score, old_score and `preferred` (`old` or `new`); `other_response` is then the worse answer.

    - Rows with one answer pass unchanged; two equal answers count as one.
    - A filtered row with an old answer was filtered for its new one: it keeps the old one and is ok again.
    - A failed row passes unchanged, to be asked again. If its request was too long it would only fail again, so it
      keeps the old answer and is ok.
    - Judging fails a row as in `judge`.
    """
    settings = config.judge.model_copy(update={"repeat_share": 0.0, "verified_share": 0.0})
    function = PreferRow(replace(JudgeRow.of(config, config.random_seed), settings=settings))
    return roles.ask(rows, function, schema)


@dataclass(frozen=True)
class PreferRow:
    """The AskRow of `prefer`."""

    judge: JudgeRow

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        old, new = row["other_response"], row["response"]
        if old is None or (row["status"] == schemas.FAILED and not too_long(row["reason"])):
            return row
        if row["status"] == schemas.OK and old == new:
            return {**row, "other_response": None}
        if row["status"] != schemas.OK:
            return {**kept_old(row), "status": schemas.OK, "reason": None}
        # The judge compares `response` with `student_response`, so the old answer takes the student's place.
        judged = await self.judge(clients, {**row, "student_response": old})
        if judged["status"] != schemas.OK:
            return {**row, "status": judged["status"], "reason": judged["reason"]}
        scored = {**row, "new_score": judged["teacher_score"], "old_score": judged["student_score"]}
        return {**scored, "preferred": NEW} if scored["new_score"] > scored["old_score"] else kept_old(scored)


def kept_old(row: Row) -> Row:
    """Returns the row with its answers swapped, and without the columns that describe the new one."""
    answers = {"response": row["other_response"], "other_response": row["response"], "preferred": OLD}
    return {**row, **dict.fromkeys(NOT_OF_THE_OLD), **answers}
