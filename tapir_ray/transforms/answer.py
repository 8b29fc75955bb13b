"""The student's answers where the student is behind an OpenAI-compatible endpoint (`student.endpoint`).

answered = roles.ask(rows, student_answer, schemas.SCORED)
"""

from __future__ import annotations

from collections.abc import Mapping

from tapir_ray.data import schemas
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.transforms.judge import seed_of


async def student_answer(clients: Mapping[str, Client], row: Row) -> Row:
    """The row with student_response and finish_reason; an empty, refused or cut-off answer is kept as it is.

    Rows that are not ok pass; a request that failed fails the row.
    """
    if row["status"] != schemas.OK:
        return row
    reply = await clients["student"].chat(row["messages"], seed=seed_of(row["instruction_id"], "answer"), kind="answer")
    if reply.status == schemas.FAILED:
        return {**row, "status": schemas.FAILED, "reason": reply.reason}
    return {**row, "student_response": reply.text or "", "finish_reason": reply.finish_reason}
