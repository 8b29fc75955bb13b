"""Counts the tokens of training pairs: the table `training` in and out.

rows = count_tokens(rows, model_dir, config.student, config.train, config.resources.transform_cpus)
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pyarrow as pa
import ray

from tapir_ray.config import Student, Train
from tapir_ray.data.schemas import FILTERED, OK, TRAINING, with_columns
from tapir_ray.train.chat import end_of_turn, shared_tokenizer
from tapir_ray.train.control_tokens import RowRefused
from tapir_ray.train.loss_mask import encode

if TYPE_CHECKING:
    import ray.data


OVER_LENGTH = "over_length"


def count_table(
    rows: pa.Table, model_dir: str, student: Student, train: Train, whole_column: str | None = None
) -> pa.Table:
    """Returns the rows with `tokens`; unusable pairs are filtered as `over_length`, `template_refused` or
    `special_token`.

    `tokens` is null for pairs that the chat template refuses (its message is in the reason), and for pairs with a
    control token that cannot be written as text. `whole_column` gets the tokens of the whole pair as it is trained on,
    prompt and response; null for an unusable pair.
    """
    # Loaded once in a worker process, for all of its batches.
    tokenizer = shared_tokenizer(model_dir, student)
    end = end_of_turn(tokenizer, student.chat_template_kwargs)
    tokens, statuses, reasons, whole = [], [], [], []
    for row in rows.select(["messages", "response", "masked_turns", "status", "reason"]).to_pylist():
        status, reason = row["status"], row["reason"]
        count = size = None
        if status == OK:
            try:
                pair = encode(tokenizer, row["messages"], row["response"], student, train, end, row["masked_turns"])
            except RowRefused as refused:
                status, reason = FILTERED, refused.reason
            else:
                # A pair that does not fit gets the tokens that it would have in the loss without truncation.
                count, size = pair.in_loss or pair.uncut, len(pair.input_ids) or None
                if not pair.in_loss:
                    status, reason = FILTERED, OVER_LENGTH
        tokens.append(count)
        statuses.append(status)
        reasons.append(reason)
        whole.append(size if status == OK else None)
    columns = {"tokens": tokens, "status": statuses, "reason": reasons}
    counted = {name: pa.array(values, type=TRAINING.field(name).type) for name, values in columns.items()}
    if whole_column is not None:
        counted[whole_column] = pa.array(whole, pa.int64())
    return with_columns(rows, **counted)


def count_tokens(
    rows: ray.data.Dataset,
    model_dir: str,
    student: Student,
    train: Train,
    transform_cpus: float,
    whole_column: str | None = None,
) -> ray.data.Dataset:
    """Returns training rows with `tokens`, the number in the loss by `train.loss_mask`; unusable pairs are filtered.

    `whole_column` names a column for the tokens of the whole pair, prompt and response. Columns other than these,
    `status` and `reason` pass unchanged. Raises InputError (inside Ray's own error) if the student has no tokenizer or
    chat template.
    """
    return rows.map_batches(
        functools.partial(count_table, model_dir=model_dir, student=student, train=train, whole_column=whole_column),
        batch_size=1024,
        batch_format="pyarrow",
        num_cpus=transform_cpus,
    )
