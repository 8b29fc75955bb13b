"""Encodes a training pair as tokens and labels: masks the part of a conversation outside the loss (`train.loss_mask`).

    encoded = encode(tokenizer, row["messages"], row["response"], config.student, config.train, end)
    encoded.input_ids, encoded.labels          # of one length; a label is its token, or IGNORED

With `all` an earlier answer is in the loss if the conversation up to it is encoded, token for token, like the pair that
ends with it. The student then learns the answer after the same prompt that it gets at inference.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tapir_ray.config import Student, Train
from tapir_ray.data.schemas import Message
from tapir_ray.train.chat import IGNORED, encode_pair
from tapir_ray.train.control_tokens import RowRefused


@dataclass(frozen=True)
class Encoded:
    """Tokens and labels of a conversation, truncated to the trained length."""

    input_ids: list[int]
    labels: list[int]
    in_loss: int
    """Number of tokens in the loss after truncation; 0 if the pair does not fit."""
    uncut: int
    """Number of tokens in the loss without truncation."""
    was_cut: bool
    last_turn_only: bool
    """True if `loss_mask` is `all` and the template rewrites an earlier answer: only the response is in the loss."""


def encode(
    tokenizer: Any,
    messages: Sequence[Message],
    response: str,
    student: Student,
    train: Train,
    end: list[int],
    masked_turns: Collection[int] | None = None,
) -> Encoded:
    """The pair as tokens and labels, by `train.loss_mask`, `train.sequence_length` and `train.over_length`.

    `end` is the result of `end_of_turn` for the tokenizer; `masked_turns` are positions of messages that are always
    outside the loss. Raises RowRefused.
    """
    prompt, answer = encode_pair(tokenizer, messages, response, student.chat_template_kwargs, end)
    ids = [*prompt, *answer]
    labels = [IGNORED] * len(prompt) + answer
    earlier: list[tuple[int, int]] | None = []
    if train.loss_mask == "all":
        earlier = _earlier_answers(tokenizer, messages, ids, student.chat_template_kwargs, end, masked_turns or ())
    for start, stop in earlier or []:
        labels[start:stop] = ids[start:stop]
    uncut = _tokens(labels)
    longer = len(ids) > train.sequence_length
    kept = 0 if longer and train.over_length == "filter" else train.sequence_length
    return Encoded(ids[:kept], labels[:kept], _tokens(labels[:kept]), uncut, longer, earlier is None)


def _earlier_answers(
    tokenizer: Any,
    messages: Sequence[Message],
    ids: list[int],
    kwargs: dict[str, Any],
    end: list[int],
    masked_turns: Collection[int],
) -> list[tuple[int, int]] | None:
    """(start, stop) in `ids` of each answer among `messages`; None if one of them is encoded differently on its own.

    An answer without text, before the first question, or at a position in `masked_turns` is left out.
    """
    spans = []
    asked = False
    for position, message in enumerate(messages):
        asked = asked or message["role"] == "user"
        if not asked or position in masked_turns or message["role"] != "assistant" or not message["content"].strip():
            continue
        try:
            prompt, answer = encode_pair(tokenizer, messages[:position], message["content"], kwargs, end)
        except RowRefused:
            return None
        stop = len(prompt) + len(answer)
        # The template writes this answer, or its prompt, differently in the middle of a conversation.
        if ids[:stop] != [*prompt, *answer]:
            return None
        spans.append((len(prompt), stop))
    return spans


def _tokens(labels: list[int]) -> int:
    return sum(label != IGNORED for label in labels)
