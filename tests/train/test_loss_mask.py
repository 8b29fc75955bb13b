"""The loss mask of a conversation: the response, or every answer that the template renders as it was trained on."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import CreateModel, Student, Train
from tapir_ray.train.chat import IGNORED, encode_pair, encode_prompt, end_of_turn, load_tokenizer, resolve_template
from tapir_ray.train.create_student import create_student
from tapir_ray.train.loss_mask import Encoded, encode
from tests.train.templates import NO_SYSTEM, SEVERAL, SYSTEM, THINKING, USER_LAST

TURNS = [*SYSTEM, *SEVERAL[1:], {"role": "assistant", "content": "It is 8."}, {"role": "user", "content": "And 1 + 1?"}]
ALL = Train(loss_mask="all")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("turns") / "student")
    texts = ["What is 3 + 4? It is 7.", "Be brief. And 4 + 4? Say why.\nIt is 8."] * 20
    create_student(CreateModel(hidden_size=16, intermediate_size=32, layers=1, heads=2), texts, folder, None, 0)
    return folder


@pytest.fixture(scope="module")
def tokenizer(model: str) -> Any:
    """A tokenizer with the marks of every template."""
    tokenizer = load_tokenizer(model, Student(model=model))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


def encoded(
    tokenizer: Any, template: str, messages: list[dict[str, str]], train: Train = ALL, **template_kwargs: Any
) -> Encoded:
    tokenizer.chat_template = template
    student = Student(model="m", chat_template_kwargs=template_kwargs)
    return encode(tokenizer, messages, "It is 2.", student, train, end_of_turn(tokenizer, template_kwargs))


def learnt(tokenizer: Any, pair: Encoded) -> list[str]:
    """Returns the texts in the loss, in order."""
    texts, text = [], []
    for label in [*pair.labels, IGNORED]:
        if label != IGNORED:
            text.append(label)
        elif text:
            texts.append(tokenizer.decode(text).strip())
            text = []
    return texts


@pytest.mark.parametrize("name", ["plain", "chatml", "llama2", "vicuna"])
def test_every_answer_is_in_the_loss_with_its_end_after_its_own_prompt(tokenizer: Any, name: str) -> None:
    pair = encoded(tokenizer, resolve_template(name), TURNS)
    end = end_of_turn(tokenizer, {})[-1]
    answers = [text.removesuffix(tokenizer.decode([end])).strip() for text in learnt(tokenizer, pair)]
    assert answers == ["It is 7.", "It is 8.", "It is 2."]
    assert not pair.last_turn_only and pair.in_loss == pair.uncut
    for position in (2, 4, 6):
        prompt = encode_prompt(tokenizer, TURNS[:position], {})
        assert pair.input_ids[: len(prompt)] == prompt
        assert pair.labels[len(prompt) - 1] == IGNORED != pair.labels[len(prompt)]
        stop = pair.labels.index(end, len(prompt))
        assert IGNORED not in pair.labels[len(prompt) : stop]
        assert stop + 1 == len(pair.labels) or pair.labels[stop + 1] == IGNORED
    assert pair.labels.count(end) == 3


def test_the_last_turn_is_the_rendered_pair(tokenizer: Any) -> None:
    for template in (resolve_template("plain"), THINKING):
        pair = encoded(tokenizer, template, TURNS, Train())
        prompt, response = encode_pair(tokenizer, TURNS, "It is 2.", {})
        assert pair.input_ids == prompt + response
        assert pair.labels == [IGNORED] * len(prompt) + response
        assert not pair.last_turn_only


@pytest.mark.parametrize("enable_thinking", [True, False])
def test_a_template_that_rewrites_earlier_answers_trains_on_the_response_alone(
    tokenizer: Any, enable_thinking: bool
) -> None:
    pair = encoded(tokenizer, THINKING, TURNS, enable_thinking=enable_thinking)
    assert pair.last_turn_only
    last = encoded(tokenizer, THINKING, TURNS, Train(), enable_thinking=enable_thinking)
    assert (pair.input_ids, pair.labels) == (last.input_ids, last.labels)
    assert not encoded(tokenizer, THINKING, SYSTEM, enable_thinking=enable_thinking).last_turn_only


def test_answers_without_a_stop_token_train_on_the_response_alone(model: str) -> None:
    """This tokenizer lacks the template's marks: they are text for it, and eos ends a response in their place."""
    bare = load_tokenizer(model, Student(model=model))
    assert encoded(bare, resolve_template("chatml"), TURNS).last_turn_only


def test_an_answer_without_a_possible_prompt_trains_on_the_response_alone(tokenizer: Any) -> None:
    again = [*SEVERAL[:2], {"role": "assistant", "content": "That is all."}, SEVERAL[2]]
    assert encoded(tokenizer, USER_LAST, again).last_turn_only
    assert not encoded(tokenizer, USER_LAST, SEVERAL).last_turn_only
    assert len(learnt(tokenizer, encoded(tokenizer, resolve_template("plain"), again))) == 3


def test_a_greeting_and_an_empty_answer_are_context(tokenizer: Any) -> None:
    greeting = {"role": "assistant", "content": "Hello."}
    empty = [{"role": "assistant", "content": " "}, SEVERAL[2]]
    pair = encoded(tokenizer, NO_SYSTEM, [greeting, *SEVERAL, *empty])
    assert learnt(tokenizer, pair) == ["It is 7.<|end|>", "It is 2.<|end|>"]


def test_a_conversation_that_is_too_long_is_left_out_or_truncated(tokenizer: Any) -> None:
    plain = resolve_template("plain")
    whole = encoded(tokenizer, plain, TURNS)
    length = len(encode_prompt(tokenizer, TURNS[:2], {})) + 3
    out = encoded(tokenizer, plain, TURNS, Train(loss_mask="all", sequence_length=length))
    assert (out.input_ids, out.labels, out.in_loss, out.uncut) == ([], [], 0, whole.in_loss)
    cut = encoded(tokenizer, plain, TURNS, Train(loss_mask="all", sequence_length=length, over_length="truncate"))
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:length], whole.labels[:length])
    assert cut.was_cut and (cut.in_loss, cut.uncut) == (3, whole.in_loss)
    assert encoded(tokenizer, plain, TURNS, Train(sequence_length=length, over_length="truncate")).in_loss == 0


def test_an_answer_of_weight_0_is_in_no_loss(tokenizer: Any) -> None:
    tokenizer.chat_template = resolve_template("plain")
    student, end = Student(model="m"), end_of_turn(tokenizer, {})
    pair = encode(tokenizer, TURNS, "It is 2.", student, ALL, end, masked_turns=[2])
    whole = encode(tokenizer, TURNS, "It is 2.", student, ALL, end)
    assert pair.input_ids == whole.input_ids
    assert learnt(tokenizer, pair) == learnt(tokenizer, whole)[1:]
