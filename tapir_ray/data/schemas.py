"""Arrow schemas of the tables that pass between stages, and the ids of their rows.

A row is a conversation: `messages` holds the context (system, user and assistant turns), `response` the assistant turn
to learn. Ids are functions of content, so they are the same on every machine and in every attempt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

ID_VERSION = "1"
"""Part of every id; raised when the canonical form changes, so that old and new ids never match."""

Message = dict[str, str]

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

OK, FILTERED, FAILED = "ok", "filtered", "failed"
STATUSES = (OK, FILTERED, FAILED)

BUDGET_USED_UP = "budget_used_up"
"""Reason of a row that was not asked because the budget ended; such rows are never written."""

JUDGE = "judge"
"""Value of `scored_by` for rows that the judge alone scored."""

SEED, HOLDOUT, GENERATED = "seed", "holdout", "generated"
"""Values of `split`: `holdout` rows are never trained on or expanded."""

ID = ("instruction_id",)
"""Key of tables with each instruction once."""
SOURCE_AND_ID = ("source", "instruction_id")
"""Key of the seed data, in which filtered rows may repeat an instruction."""
DRAW = ("draw_id",)
"""Key of a round's generated rows."""

INSTRUCTIONS = pa.schema(
    [
        ("instruction_id", pa.string()),
        ("split", pa.string()),
        ("messages", MESSAGES),
        ("response", pa.string()),
        ("masked_turns", pa.list_(pa.int64())),
        ("reasoning", pa.string()),
        ("task", pa.string()),
        ("task_prob", pa.float64()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("parent_id", pa.string()),
        ("round", pa.int64()),
        ("teacher_model", pa.string()),
        ("prompt_hash", pa.string()),
        ("sampling", pa.string()),
        ("meta", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("style", pa.string()),
    ]
)
"""`masked_turns`: positions in `messages` of answers that are masked out of the loss (turns of weight 0); null if none.
`meta`: JSON of the other columns of the source row. `sampling`: JSON of the teacher's sampling parameters.
`style`: style that the teacher was asked to answer in; null for a plain answer and for one of the source row."""

SCORED = pa.schema(
    [
        *INSTRUCTIONS,
        ("student_response", pa.string()),
        ("finish_reason", pa.string()),
        ("teacher_score", pa.float64()),
        ("student_score", pa.float64()),
        ("scored_by", pa.string()),
        ("difficulty", pa.float64()),
        ("position_gap", pa.float64()),
        ("repeat_mfd", pa.float64()),
        ("repeat_same", pa.bool_()),
        ("judged_mfd", pa.float64()),
        ("judge_reasons", pa.string()),
        ("criterion_scores", pa.string()),
        ("response_chars", pa.int64()),
        ("student_response_chars", pa.int64()),
        ("times_trained", pa.int64()),
    ]
)
"""Scores are 1 to 10, averaged over both orders of the answers; `scored_by`: `judge`, or the verifier as the config
names it. `difficulty` = teacher_score − student_score (MFD), unless the config names another measure.
`repeat_mfd`: MFD of the second judging, in a sample, under any measure. `repeat_same`: True if the judge's replies were
the same texts. `judged_mfd`: the judge's MFD of a row that a verifier scored, in a sample (`judge.verified_share`).
`judge_reasons`: the judge's reply, kept for `expand.prompt: feedback` alone. `criterion_scores`: JSON of the scores by
criterion (`judge.mode: rubric`), such as `{"teacher": {"accuracy": 9.0}, "student": {"accuracy": 6.5}}`; null for a row
that a verifier scored."""

GENERATED_ROWS = pa.schema(
    [
        ("draw_id", pa.string()),
        *INSTRUCTIONS,
        ("answer_score", pa.float64()),
        ("pool", pa.string()),
        ("operation", pa.string()),
        ("example_ids", pa.list_(pa.string())),
    ]
)
"""One row for each draw, also if it failed. `answer_score` is the judge's score of the teacher's answer, 1 to 10; null
unless answers are gated. `pool` is that of the row it was drawn from: `hard` or `easy`; null in a control.
`operation` is how the row differs from its parent: an operation of `expand.prompt: evolve`, `easier` or `harder` with
`feedback`, null for an instruction like it. `example_ids`: further parents that the teacher was shown
(`expand.examples`), in their order; null without."""

DRAWN = pa.schema(
    [
        *GENERATED_ROWS,
        ("parent_response", pa.string()),
        ("student_response", pa.string()),
        ("judge_reasons", pa.string()),
        ("examples", pa.list_(pa.string())),
    ]
)
"""Draws, with what a teacher may be shown of their parent, and the texts of `example_ids`."""

TRAINING = pa.schema(
    [
        ("pair_id", pa.string()),
        ("instruction_id", pa.string()),
        ("copy", pa.int64()),
        ("messages", MESSAGES),
        ("response", pa.string()),
        ("masked_turns", pa.list_(pa.int64())),
        ("task", pa.string()),
        ("pool", pa.string()),
        ("tokens", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
"""`tokens` counts the response tokens, those in the loss. `pool` is `hard`, `easy`, `unscored` (`mix.fill`), `probe`
(kept out of the training set) or, in the initial SFT, `seed`."""

EXPLAINED = pa.schema(
    [
        *SCORED,
        ("student_samples", pa.list_(pa.string())),
        ("prompt_tokens", pa.int64()),
        ("answer_tokens", pa.int64()),
    ]
)
"""A student's explanation in `student_response`, and sampled ones. `answer_tokens` counts those of all of them."""

CONTINUED = pa.schema(
    [
        ("prefix_id", pa.string()),
        *EXPLAINED,
        ("steps", pa.int64()),
        ("answer_prefix", pa.string()),
        ("answer_temperature", pa.float64()),
        ("step_uncertainty", pa.float64()),
    ]
)
"""A row for each prefix of an explanation: its number of `steps`, its text, and continuations of it in
`student_response` and `student_samples`. `step_uncertainty` is u_j (`curriculum/step_uncertainty.py`)."""

SELECTED = pa.schema(
    [
        *EXPLAINED,
        ("steps", pa.list_(pa.string())),
        ("step_uncertainty", pa.list_(pa.float64())),
        ("disagreement", pa.float64()),
        ("uncertainty", pa.float64()),
        ("chosen", pa.bool_()),
    ]
)
"""Explanations with their steps. The uncertainties are null unless `elad.select` is `uncertain`."""

ANNOTATED = pa.schema(
    [
        *INSTRUCTIONS,
        ("student_response", pa.string()),
        ("uncertainty", pa.float64()),
        ("verdict", pa.string()),
        ("first_faulty", pa.int64()),
        ("revision", pa.string()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
    ]
)
"""`response` is the explanation to learn: the student's steps before `first_faulty`, and the teacher's `revision`.
`verdict`: `right` or `faulty`; null for an answer that was written afresh. Tokens are those of the teacher's requests
for the row."""

ANNOTATION = "annotated"
"""Value of `pool` for training rows from annotations."""
PREFIX_ID = ("prefix_id",)
"""Key of the continuations."""

PACKED = pa.schema(
    [
        ("seq_index", pa.int64()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("position_ids", pa.list_(pa.int32())),
        ("pair_ids", pa.list_(pa.string())),
    ]
)
"""A row is a sequence of conversations. `position_ids` restart at 0 with each; `labels` are −100 outside responses."""


def _hash(*parts: str) -> str:
    """A 128-bit hash as 32 hex digits. Parts are length-prefixed, so ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (ID_VERSION, *parts):
        data = part.encode("utf-8", "surrogatepass")  # a text with half of a surrogate pair gets an id too
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def instruction_id(messages: Sequence[Message]) -> str:
    """Id of a conversation's context: a hash of its roles and contents, including case and white space."""
    return _hash("instruction", *(part for message in messages for part in (message["role"], message["content"])))


def draw_id(round_number: int, parent_id: str, copy: int, *source: str) -> str:
    """Id of the `copy`-th request of a round to expand the instruction `parent_id`.

    `source` keeps draws apart that two sources make from one parent.
    """
    return _hash("draw", str(round_number), parent_id, str(copy), *source)


def prefix_id(instruction: str, steps: int) -> str:
    """Id of the prefix of a student's explanation with this number of steps."""
    return _hash("prefix", instruction, str(steps))


def pair_id(instruction: str, copy: int) -> str:
    """Id of the `copy`-th appearance of an instruction in a training set."""
    return _hash("pair", instruction, str(copy))


def order_key(row_id: str, random_seed: int, *salt: object) -> str:
    """A uniform 128-bit hash of (row id, random seed, salt) as hex; sorting by it is a reproducible shuffle."""
    return _hash("order", row_id, str(random_seed), *(str(part) for part in salt))


def in_share(row_id: str, random_seed: int, share: float, *salt: object) -> bool:
    """Whether a row is in a share of all rows that is drawn by the hash of (row id, random seed, salt)."""
    # 13 hex digits are 52 bits, which a float holds exactly.
    return int(order_key(row_id, random_seed, *salt)[:13], 16) / 16**13 < share


def prompt_hash(messages: Sequence[Message]) -> str:
    """Hash of the exact messages sent to a model, kept with its answer."""
    return _hash("prompt", json.dumps(list(messages), ensure_ascii=False))


def text_of(messages: Sequence[Message]) -> str:
    """A conversation as one text for prompts and filters: a lone user turn as it is, anything longer with its roles."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def conform(rows: pa.Table | list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """`rows` with exactly the columns of `schema`, in its order and types; missing columns are filled with nulls.

    Raises pyarrow.ArrowInvalid if a value does not fit its type.
    """
    if isinstance(rows, list):
        return pa.Table.from_pylist(rows, schema=schema)
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def with_columns(table: pa.Table, **columns: Any) -> pa.Table:
    """The table with columns set or added; a plain value (or None) fills a whole column of strings."""
    for name, values in columns.items():
        if values is None or isinstance(values, str):
            values = pa.array([values] * len(table), pa.string())
        position = table.schema.get_field_index(name)
        table = table.append_column(name, values) if position < 0 else table.set_column(position, name, values)
    return table


def marked(table: pa.Table, rows: pa.Array | pa.ChunkedArray, reason: str) -> pa.Table:
    """The table with status filtered and `reason` in the rows that `rows` (a boolean array) selects and that are ok."""
    hit = pc.and_(rows, pc.equal(table["status"], OK))
    return with_columns(
        table,
        status=pc.if_else(hit, FILTERED, table["status"]),
        reason=pc.if_else(hit, reason, table["reason"]),
    )
