"""Losses: the student's mean cross-entropy of each row's own response, given its conversation and alone.

    rows = response_losses(rows, "runs/x/checkpoints/01", config)          # response_loss, response_loss_alone
    table = with_losses(table, model, tokenizer, config.student, 1024)     # the same for a table in memory

Runs in an actor pool of Ray Data. Conversations are rendered and encoded by the function that training uses, so the
losses are over the tokens that a training has in its loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tapir_ray.cluster.ray_data import small_blocks
from tapir_ray.config import Config, Student, Train
from tapir_ray.curriculum.measures import LOSSES
from tapir_ray.data.schemas import HOLDOUT, OK, with_columns
from tapir_ray.train.batches import Packed, collate, longest_first
from tapir_ray.train.chat import IGNORED, encode_pair, end_of_turn, shared_tokenizer
from tapir_ray.train.control_tokens import RowRefused

if TYPE_CHECKING:
    import ray.data

TOKENS_ON_CPU, TOKENS_ON_GPU = 1024, 16_384
"""Most padded tokens of a forward pass; a longer row has a pass of its own."""


def response_losses(rows: ray.data.Dataset, model: str, config: Config) -> ray.data.Dataset:
    """Returns the rows with `response_loss` and `response_loss_alone` by `with_losses`: a lazy dataset.

    `model` is a HF folder, URI or name. Each worker loads it once, on one GPU or on CPUs, with the claims of
    `resources.student`; with `tensor_parallel` 2 there are two workers for each engine.
    """
    import ray.data

    workers, resources = config.resources.student, config.resources
    kind: dict[str, Any] = {"accelerator_type": workers.accelerator_type} if workers.accelerator_type else {}
    # Ray Data hands on the rows of a task at its end, so a large block would be lost as a whole by a stop.
    small = small_blocks(rows, resources.rows_per_block, resources.transform_cpus)
    return small.map_batches(
        _Worker,
        fn_constructor_args=(model, config.student, config.train, max(1, int(workers.cpus)), workers.gpus > 0),
        compute=ray.data.ActorPoolStrategy(
            min_size=workers.fewest * workers.tensor_parallel, max_size=workers.replicas * workers.tensor_parallel
        ),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=workers.cpus,
        num_gpus=workers.gpus or None,
        **kind,
    )


class _Worker:
    """Worker of the actor pool: holds the student, in the floats of `student.dtype`."""

    def __init__(self, model: str, student: Student, train: Train, threads: int, gpu: bool) -> None:
        import torch

        from tapir_ray.train.weights import load_student

        torch.set_num_threads(threads)
        dtype = student.dtype if student.dtype == "auto" else getattr(torch, student.dtype)
        loaded = load_student(model, student, dtype=dtype, attn_implementation=_attention(model, student, train))
        self._model = loaded.to("cuda" if gpu else "cpu").eval()
        self._tokenizer = shared_tokenizer(model, student)
        self._student = student
        self._tokens_at_once = TOKENS_ON_GPU if gpu else TOKENS_ON_CPU

    def __call__(self, table: pa.Table) -> pa.Table:
        return with_losses(table, self._model, self._tokenizer, self._student, self._tokens_at_once)


def _attention(model: str, student: Student, train: Train) -> str:
    """Returns the attention that training uses, or its equal if that is FlashAttention.

    The floats of `student.dtype` may have 32 bits, which FlashAttention refuses.
    """
    if train.attention != "flash_attention_2":
        return train.attention
    from tapir_ray.train.model_config import read_config

    cap = getattr(read_config(student, model).get_text_config(), "attn_logit_softcapping", None)
    # sdpa leaves out a cap on attention scores (Gemma 2).
    return "sdpa" if cap is None else "eager"


def with_losses(table: pa.Table, model: Any, tokenizer: Any, student: Student, tokens_at_once: int) -> pa.Table:
    """Returns the table with `response_loss` and `response_loss_alone`, float64, in nats per response token.

    `model` is in evaluation mode. The response has the tokens of a training, with its end of turn. `response_loss` is
    given the conversation, `response_loss_alone` after the tokenizer's BOS token (EOS if it has none): IFD (arXiv
    2308.12032) is the first divided by the second.

    Nothing is truncated: both are null for a conversation of more than `student.max_model_len` tokens. They are also
    null for rows of the holdout, rows that are not ok, and rows whose response is missing or refused by the chat
    template. Forward passes have at most `tokens_at_once` tokens with their padding, unless a row alone has more.
    """
    end = end_of_turn(tokenizer, student.chat_template_kwargs)
    bos = tokenizer.bos_token_id
    start = [tokenizer.eos_token_id if bos is None else bos]
    places: list[int] = []
    sequences: list[Packed] = []
    for place, row in enumerate(table.select(["split", "messages", "response", "status"]).to_pylist()):
        if row["split"] == HOLDOUT or row["status"] != OK or not (row["response"] or "").strip():
            continue
        try:
            prompt, answer = encode_pair(tokenizer, row["messages"], row["response"], student.chat_template_kwargs, end)
        except RowRefused:
            continue
        if len(prompt) + len(answer) <= student.max_model_len:
            places.append(place)
            sequences += [_sequence(prompt, answer), _sequence(start, answer)]
    means = mean_losses(model, sequences, tokens_at_once)
    columns: list[list[float | None]] = [[None] * len(table) for _ in LOSSES]
    for number, place in enumerate(places):
        columns[0][place], columns[1][place] = means[2 * number], means[2 * number + 1]
    found = zip(LOSSES, columns, strict=True)
    return with_columns(table, **{field.name: pa.array(values, field.type) for field, values in found})


def mean_losses(model: Any, sequences: Sequence[Packed], tokens_at_once: int) -> list[float]:
    """Returns the mean cross-entropy over the response tokens of each sequence, in nats per token.

    Sequences of similar length share a forward pass, the longest first, so that one that does not fit into memory
    fails at once.
    """
    from tapir_ray.train.loss import token_losses

    means = [0.0] * len(sequences)
    for part in longest_first([len(one["labels"]) for one in sequences], len(sequences), tokens_at_once):
        rows = [sequences[place] for place in part]
        batch = {name: values.to(model.device) for name, values in collate(rows, one_row=False).items()}
        sums = token_losses(model, batch).double().sum(dim=1).tolist()
        for place, row, total in zip(part, rows, sums, strict=True):
            means[place] = total / int((row["labels"] != IGNORED).sum())
    return means


def _sequence(prompt: list[int], answer: list[int]) -> Packed:
    """Returns a sequence with the answer in the loss."""
    ids = [*prompt, *answer]
    return {
        "input_ids": np.asarray(ids, np.int64),
        "labels": np.asarray([IGNORED] * len(prompt) + answer, np.int64),
        "position_ids": np.arange(len(ids)),
    }
