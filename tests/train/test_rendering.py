"""Rendered conversations: a chat template must keep all of their text and leave no thoughts unclosed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import CreateModel, Student, Train
from tapir_ray.errors import InputError
from tapir_ray.train.chat import (
    TemplateRefused,
    encode_pair,
    encode_prompt,
    load_tokenizer,
    resolve_template,
    template_names,
)
from tapir_ray.train.create_student import create_student
from tapir_ray.train.rendering import split_thoughts
from tapir_ray.train.student_check import check_student
from tests.train.templates import THINKING
from tests.train.tokenizers import _bytes, _finished, _special

ONE = [{"role": "user", "content": "What is 3 + 4?"}]
PLAIN = resolve_template("plain")
PARTS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.content is not string %}{% for part in m.content %}"
    "{{ part.text }}{% endfor %}{% endif %}{{ eos_token }}{% endfor %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("rendering") / "student")
    size = CreateModel(hidden_size=16, intermediate_size=32, layers=1, heads=2)
    create_student(size, ["What is 3 + 4? It is 7."] * 20, folder, None, 0)
    return folder


def loaded(model: str, tmp_path: Path, template: str, **kwargs: Any) -> Any:
    file = tmp_path / "template.jinja"
    file.write_text(template)
    return load_tokenizer(model, Student(model=model, chat_template=str(file), chat_template_kwargs=kwargs))


@pytest.mark.parametrize(
    "template",
    [
        PARTS,
        PLAIN.replace("message['content']", "message['content'] | replace('\\n\\n', '\\n')"),
        PLAIN.replace("message['content']", "message['content'] | escape"),
        PLAIN.replace("message['content']", "message['content'] | tojson"),
        PLAIN.replace("message['content']", "message['content'][:20]"),
        PLAIN.replace("message['content']", "' '.join(message['content'].split())"),
        PLAIN.replace("message['content']", "message['content'] | lower"),
        PLAIN.replace("message['content']", "(message['content'] if message.role == 'user' else '')"),
        PLAIN.replace("message['content']", "message['content'].index('nowhere')"),
        PLAIN.replace("message['content']", "message['content'] + 1"),
        PLAIN.replace("message['content']", "message['text'] + ''"),
    ],
    ids=["parts", "newlines", "escape", "json", "cut", "words", "lower", "no answer", "ValueError", "TypeError", "key"],
)
def test_a_template_that_loses_text_or_fails_is_refused_before_anything_is_spent(
    model: str, tmp_path: Path, template: str
) -> None:
    with pytest.raises(InputError, match=r"student\.chat_template"):
        loaded(model, tmp_path, template)
    with pytest.raises(InputError, match=r"student\.chat_template"):
        student = Student(create=CreateModel(), chat_template=str(tmp_path / "template.jinja"), max_model_len=512)
        check_student(student, Train(sequence_length=64))


@pytest.mark.parametrize("name", template_names())
def test_shipped_templates_and_those_that_strip_a_turn_pass(model: str, tmp_path: Path, name: str) -> None:
    loaded(model, tmp_path, resolve_template(name))
    stripped = resolve_template(name).replace("message['content']", "(message['content'] | trim)")
    tokenizer = loaded(model, tmp_path, stripped)
    answer = tokenizer.decode(encode_pair(tokenizer, ONE, "\n It is  7. \n\n", {})[1])
    assert "It is  7." in answer
    # Without chatml's marks in the tokenizer no engine could stop at them, so the answer's own text is used.
    assert ("7. \n\n" in answer) == (name == "chatml")


def test_a_row_of_which_the_template_loses_a_part_is_refused_with_that_part(model: str, tmp_path: Path) -> None:
    no_system = PLAIN.replace("{{-", "{%- if message.role != 'system' %}{{-").replace(
        "}}\n{%- endfor", "}}{% endif %}\n{%- endfor"
    )
    tokenizer = loaded(model, tmp_path, no_system)
    system = {"role": "system", "content": "Answer in French."}
    for refuse in (
        lambda: encode_prompt(tokenizer, [system, *ONE], {}),
        lambda: encode_pair(tokenizer, [system, *ONE], "It is 7.", {}),
    ):
        with pytest.raises(TemplateRefused) as refused:
            refuse()
        assert refused.value.reason == (
            "template_refused: the chat template leaves out or changes part of the system turn 'Answer in French.'"
        )
    tokenizer = loaded(model, tmp_path, PLAIN.replace("message['content']", "message['content'][:90]"))
    assert encode_prompt(tokenizer, ONE, {})
    with pytest.raises(TemplateRefused, match="part of the user turn"):
        encode_prompt(tokenizer, [{"role": "user", "content": "one " * 30}], {})
    with pytest.raises(TemplateRefused, match="part of the assistant turn"):
        encode_prompt(tokenizer, [*ONE, {"role": "assistant", "content": "one " * 30}, *ONE], {})
    whole = encode_pair(tokenizer, ONE, "one " * 30, {})[1]
    assert tokenizer.decode(whole).count("one") == 30, "the answer's own text replaces the part that the template cuts"


def test_an_error_in_the_templates_code_refuses_the_row(model: str, tmp_path: Path) -> None:
    guarded = "{% if 'seven' in messages[0].content %}{{ messages[0].content.index('nowhere') }}{% endif %}" + PLAIN
    tokenizer = loaded(model, tmp_path, guarded)
    with pytest.raises(TemplateRefused) as refused:
        encode_pair(tokenizer, [{"role": "user", "content": "seven"}], "It is 7.", {})
    assert refused.value.reason == "template_refused: ValueError: substring not found"


def thinking(newlines: str) -> Any:
    """Returns a tokenizer with `newlines` as one token and marks of thoughts, whose prompt opens a block of
    thoughts."""
    tokenizer = _finished(_bytes(), THINKING, eos_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": _special("<|user|>", "<|assistant|>")})
    tokenizer.add_tokens(["<think>", "</think>", newlines])
    return tokenizer


@pytest.mark.parametrize("newlines", ["\n\n", "\n\n\n"])
def test_thoughts_opened_by_the_prompt_are_closed_before_the_answer(newlines: str) -> None:
    tokenizer = thinking(newlines)
    prompt, answer = encode_pair(tokenizer, ONE, "4", {})
    assert tokenizer.decode(prompt).endswith("<think>\n")
    assert tokenizer.decode(answer) == "\n</think>\n\n4<|end|>"
    assert answer.count(tokenizer.convert_tokens_to_ids("</think>")) == 1


@pytest.mark.parametrize(
    ("opened", "closed"),
    [("<think>\n", "\n</think>\n\n"), ("<think>", "\n\n</think>\n\n"), ("<think>\n\n", "</think>\n\n")],
)
@pytest.mark.parametrize("continues", [True, False])
def test_a_template_that_leaves_thoughts_open_is_trained_with_closed_ones(
    opened: str, closed: str, continues: bool
) -> None:
    """DeepSeek-R1's conversations lack the mark that its prompts end with."""
    tokenizer = thinking("\n\n")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' + "
        + (f"({opened!r} if m.role == 'assistant' else '') + " if continues else "")
        + "m.content + eos_token }}{% endfor %}"
        + f"{{% if add_generation_prompt %}}<|assistant|>{opened}{{% endif %}}"
    )
    prompt, answer = encode_pair(tokenizer, ONE, "4", {})
    assert tokenizer.decode(prompt).endswith(opened)
    assert tokenizer.decode(answer) == f"{closed}4<|end|>"
    _, thought = encode_pair(tokenizer, ONE, "<think>\n3 + 1\n</think>\n\n4", {})
    _, same = encode_pair(tokenizer, ONE, "3 + 1\n</think>\n\n4", {})
    for ids in (thought, same):
        assert tokenizer.decode(ids).strip() == "3 + 1\n</think>\n\n4<|end|>"
        assert ids.count(tokenizer.convert_tokens_to_ids("</think>")) == 1


def test_only_thoughts_at_the_beginning_of_an_answer_are_split_off() -> None:
    assert split_thoughts(" <think>a</think>b") == (" <think>", "a", "</think>", "b")
    assert split_thoughts("[THINK]a[/THINK]b</think>") == ("[THINK]", "a", "[/THINK]", "b</think>")
    for text in ("b <think>a</think>", "<think>a", "a</think>b", "<think>a[/THINK]"):
        assert split_thoughts(text) == ("", "", "", text)
    assert split_thoughts("a</think>b", "<think>") == ("", "a", "</think>", "b")
