"""Training pairs with their response tokens: the `training` table in and out.

rows = count_tokens(rows, model_dir, config.student, config.train, config.resources.stage_cpus)
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pyarrow as pa
import ray

from tapir_ray.config import Student, Train
from tapir_ray.records import FILTERED, OK, TRAINING, with_columns
from tapir_ray.train.chat import TemplateRefused, encode_pair, end_of_turn, shared_tokenizer

if TYPE_CHECKING:
    import ray.data


OVER_LENGTH = "over_length"


def count_table(rows: pa.Table, model_dir: str, student: Student, train: Train) -> pa.Table:
    """The same rows with `tokens`; pairs that cannot be trained on become filtered: `over_length`, `template_refused`.

    Those that the chat template refuses have no `tokens`, and its sentence in the reason.
    """
    tokenizer, chat_kwargs = shared_tokenizer(model_dir, student), student.chat_template_kwargs
    end = end_of_turn(tokenizer, chat_kwargs)
    tokens, statuses, reasons = [], [], []
    for row in rows.select(["messages", "response", "status", "reason"]).to_pylist():
        status, reason = row["status"], row["reason"]
        count = None
        if status == OK:
            try:
                prompt, response = encode_pair(tokenizer, row["messages"], row["response"], chat_kwargs, end)
            except TemplateRefused as refused:
                status, reason = FILTERED, refused.reason
            else:
                kept = fit(len(prompt), len(response), train)
                count = kept or len(response)
                if not kept:
                    status, reason = FILTERED, OVER_LENGTH
        tokens.append(count)
        statuses.append(status)
        reasons.append(reason)
    columns = {"tokens": tokens, "status": statuses, "reason": reasons}
    return with_columns(
        rows, **{name: pa.array(values, type=TRAINING.field(name).type) for name, values in columns.items()}
    )


def count_tokens(
    rows: ray.data.Dataset, model_dir: str, student: Student, train: Train, stage_cpus: float
) -> ray.data.Dataset:
    """Training rows with `tokens` (response tokens with the end of turn); pairs that cannot be used are filtered.

    Columns other than `tokens`, `status` and `reason` pass unchanged. Raises InputError (inside Ray's own error) where
    the student has no tokenizer or chat template.
    """
    return rows.map_batches(
        functools.partial(count_table, model_dir=model_dir, student=student, train=train),
        batch_size=1024,
        batch_format="pyarrow",
        num_cpus=stage_cpus,
    )


def fit(prompt_tokens: int, response_tokens: int, train: Train) -> int:
    """Response tokens of a pair that are trained on: all, those left after a cut, or 0 where it does not fit."""
    if prompt_tokens + response_tokens <= train.sequence_length:
        return response_tokens
    if train.over_length == "cut":
        return max(0, train.sequence_length - prompt_tokens)
    return 0
