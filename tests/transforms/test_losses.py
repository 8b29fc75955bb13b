"""Losses of rows equal those computed by hand from all logits, and no row is truncated or mixed up with another."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tapir_ray.config import CreateModel, Student, Train
from tapir_ray.data.schemas import HOLDOUT, SCORED, SEED, conform
from tapir_ray.train.chat import encode_pair, load_tokenizer
from tapir_ray.train.create_student import create_student
from tapir_ray.train.loss_mask import encode
from tapir_ray.train.weights import load_student
from tapir_ray.transforms.losses import with_losses

LONGEST = 64
ANSWERS = ["one", "two three", "one two three " * 3, "three, three and three", "two", "say one " * 5]
CREATE = CreateModel(
    hidden_size=32, intermediate_size=64, layers=2, heads=2, vocab_size=512, max_length=64, initializer_range=0.3
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Student]:
    """A tiny Llama in evaluation mode, its tokenizer, and its settings."""
    folder = str(tmp_path_factory.mktemp("model") / "student")
    create_student(CREATE, ["Say one two three.", "one two three"] * 20, folder, None, 0)
    student = Student(model=folder, max_model_len=LONGEST)
    model = load_student(folder, student, dtype=torch.float32, attn_implementation="sdpa").eval()
    return model, load_tokenizer(folder, student), student


def row(answer: str | None, turns: int = 1, **fields: Any) -> dict[str, Any]:
    """Returns an ok row; with 3 turns the conversation has an earlier answer, which is outside the loss."""
    roles = ["user", "assistant", "user"][-turns:]
    messages = [{"role": role, "content": f"Say {role} one two"} for role in roles]
    return {"split": SEED, "status": "ok", "messages": messages, "response": answer, **fields}


def by_hand(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Returns the mean of −log p over the tokens of the answer, from the logits of one sequence without padding."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()
    chosen = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    return -chosen.gather(1, torch.tensor(answer)[:, None]).mean().item()


def losses_of(rows: list[dict[str, Any]], made: tuple[Any, Any, Student], tokens: int = 1024) -> list[tuple]:
    """Returns (response_loss, response_loss_alone) of each row."""
    found = with_losses(conform(rows, SCORED), *made, tokens)
    assert found.drop_columns(["response_loss", "response_loss_alone"]) == conform(rows, SCORED)
    return list(zip(found["response_loss"].to_pylist(), found["response_loss_alone"].to_pylist(), strict=True))


@pytest.mark.parametrize("tokens", [1, 100, 1024])
def test_the_losses_are_those_of_all_logits_whatever_rows_share_a_pass(
    made: tuple[Any, Any, Student], tokens: int
) -> None:
    model, tokenizer, _ = made
    rows = [row(answer, turns) for answer in ANSWERS for turns in (1, 3)]
    for one, (given, alone) in zip(rows, losses_of(rows, made, tokens), strict=True):
        prompt, answer = encode_pair(tokenizer, one["messages"], one["response"], {})
        assert given == pytest.approx(by_hand(model, prompt, answer), abs=1e-5)
        assert alone == pytest.approx(by_hand(model, [tokenizer.eos_token_id], answer), abs=1e-5)
        assert abs(given - alone) > 1e-3, "the conversation matters"


def test_the_response_has_the_tokens_that_a_training_has_in_its_loss(made: tuple[Any, Any, Student]) -> None:
    _, tokenizer, student = made
    one = row("two three", turns=3)
    prompt, answer = encode_pair(tokenizer, one["messages"], one["response"], {})
    trained = encode(tokenizer, one["messages"], one["response"], student, Train(sequence_length=LONGEST), answer[-1:])
    assert trained.in_loss == len(answer) and answer[-1] == tokenizer.eos_token_id, "the end of turn is learnt"
    assert trained.labels[len(prompt) :] == answer and set(trained.labels[: len(prompt)]) == {-100}


def test_the_response_alone_follows_bos_if_the_tokenizer_has_one(made: tuple[Any, Any, Student]) -> None:
    model, _, student = made
    tokenizer = load_tokenizer(str(student.model), student)
    tokenizer.bos_token = "<|system|>"
    ((_, alone),) = losses_of([row("two three")], (model, tokenizer, student))
    _, answer = encode_pair(tokenizer, row("")["messages"], "two three", {})
    assert tokenizer.bos_token_id != tokenizer.eos_token_id
    assert alone == pytest.approx(by_hand(model, [tokenizer.bos_token_id], answer), abs=1e-5)


def test_a_row_above_the_limit_is_null_and_never_truncated(made: tuple[Any, Any, Student]) -> None:
    model, tokenizer, student = made
    longest = row("one " * 20)
    prompt, answer = encode_pair(tokenizer, longest["messages"], longest["response"], {})
    fits, short = (student.model_copy(update={"max_model_len": len(prompt) + len(answer) - n}) for n in (0, 1))
    assert all(map(math.isfinite, losses_of([longest], (model, tokenizer, fits))[0]))
    assert losses_of([longest, row("one")], (model, tokenizer, short))[0] == (None, None)
    assert None not in losses_of([longest, row("one")], (model, tokenizer, short))[1]


def test_rows_that_cannot_be_measured_or_planned_are_null(made: tuple[Any, Any, Student]) -> None:
    model, _, student = made
    refused = load_tokenizer(str(student.model), student)
    refused.chat_template = "{% if messages|length > 2 %}{{ raise_exception('two turns') }}{% endif %}" + str(
        refused.chat_template
    )
    unmeasured = [
        row(None),
        row("  "),
        row("one", split=HOLDOUT),
        row("one", status="failed"),
        row("one", turns=3),
    ]
    found = losses_of([*unmeasured, row("one")], (model, refused, student))
    assert found[:-1] == [(None, None)] * len(unmeasured) and None not in found[-1]
    assert losses_of([row("one", split=HOLDOUT)], made) == [(None, None)]
    assert losses_of([], made) == []


def test_a_pass_has_at_most_the_given_tokens_with_their_padding(made: tuple[Any, Any, Student]) -> None:
    model, *others = made
    sizes: list[int] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        sizes.append(kwargs["input_ids"].numel())

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        losses_of([row(answer, turns) for answer in ANSWERS * 4 for turns in (1, 3)], (model, *others), 200)
    finally:
        handle.remove()
    assert max(sizes) <= 200 and len(sizes) > 4
    # The first of few tokens measures how the model changes its logits.
    in_passes = sum(size for size in sizes if size > 8)
    assert in_passes > 150 * (len(sizes) - 2), "rows of similar length share a pass"
