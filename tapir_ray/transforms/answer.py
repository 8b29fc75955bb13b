"""Answers of a student behind an OpenAI-compatible endpoint (`student.endpoint`).

answered = roles.ask(rows, student_answer, schemas.SCORED)
answered = roles.ask(rows, partial(student_answer, samples=4, temperature=1.0), measure.schema)
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.data import schemas
from tapir_ray.data.schemas import with_columns
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.row_sampling import sampling_of_row
from tapir_ray.transforms.judge_request import seed_of, together


async def student_answer(clients: Mapping[str, Client], row: Row, samples: int = 0, temperature: float = 1.0) -> Row:
    """Returns the row with `student_response`, `finish_reason` and `samples` texts in `student_samples`.

    A row's own sampling (`row_sampling`) replaces the endpoint's. Empty, refused and cut-off answers are kept as they
    are. Rows that are not ok pass unchanged. A failed request fails the row. Holdout rows are not sampled.
    """
    if row["status"] != schemas.OK:
        return row
    student, row_id = clients["student"], row["instruction_id"]
    own = sampling_of_row(row, student.target.endpoint.sampling)
    sampling = own.model_copy(update={"temperature": temperature})
    reply, *sampled = await together(
        # Seeds derive from the row's id, so a rerun sends the same requests and finds them in the cache.
        student.chat(row["messages"], sampling=own, seed=seed_of(row_id, "answer"), kind="answer"),
        *(
            student.chat(row["messages"], sampling=sampling, seed=seed_of(row_id, "sample", str(number)), kind="answer")
            for number in range(samples if row["split"] != schemas.HOLDOUT else 0)
        ),
    )
    for one in (reply, *sampled):
        if one.status == schemas.FAILED:
            return {**row, "status": schemas.FAILED, "reason": one.reason}
    answered = {**row, "student_response": reply.text or "", "finish_reason": reply.finish_reason}
    return {**answered, "student_samples": [one.text or "" for one in sampled]} if sampled else answered


def with_lengths(rows: pa.Table) -> pa.Table:
    """Adds the lengths of both answers in characters, the same columns that `judge` adds."""
    return with_columns(
        rows,
        response_chars=pc.cast(pc.utf8_length(rows["response"]), pa.int64()),
        student_response_chars=pc.cast(pc.utf8_length(rows["student_response"]), pa.int64()),
    )
