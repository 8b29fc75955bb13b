"""Chat templates: a pair has the prompt of an engine, and a response with the end token that stops an engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tapir_ray.config import CreateModel, Student
from tapir_ray.errors import InputError
from tapir_ray.train.chat import (
    TemplateRefused,
    dated,
    encode_pair,
    encode_prompt,
    load_tokenizer,
    resolve_template,
    stop_token_ids,
    template_names,
)
from tapir_ray.train.create_student import create_student

SINGLE = [{"role": "user", "content": "What is 3 + 4?"}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *SINGLE]
TURNS = [*SYSTEM, {"role": "assistant", "content": "It is 7."}, {"role": "user", "content": "And 4 + 4?\nSay why."}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("student"))
    texts = ["What is 3 + 4? It is 7.", "Be brief. And 4 + 4? Say why.\nIt is 8."] * 20
    create_student(CreateModel(hidden_size=16, intermediate_size=32, layers=1, heads=2), texts, folder, None, 0)
    return folder


@pytest.mark.parametrize("name", ["plain", "chatml", "llama2", "vicuna"])
@pytest.mark.parametrize("messages", [SINGLE, SYSTEM, TURNS], ids=["single", "system", "turns"])
def test_a_pair_has_the_engines_prompt_and_a_response_with_an_end(
    model: str, name: str, messages: list[dict[str, str]]
) -> None:
    tokenizer = load_tokenizer(model, Student(model=model, chat_template=name))
    prompt, response = encode_pair(tokenizer, messages, "It is 8.", {})
    shown = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert prompt == shown
    assert response[-1] == stop_token_ids(tokenizer, {})[0] == tokenizer.eos_token_id
    assert response.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(response[:-1]).strip() == "It is 8."
    for message in messages:
        assert message["content"] in tokenizer.decode(prompt)


def test_the_end_of_turn_is_the_templates_own_token_if_the_tokenizer_has_it(model: str) -> None:
    tokenizer = load_tokenizer(model, Student(model=model, chat_template="chatml"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    _, response = encode_pair(tokenizer, TURNS, "It is 8.", {})
    assert response[-1] == end
    assert stop_token_ids(tokenizer, {}) == [end, tokenizer.eos_token_id]
    assert tokenizer.decode(response) == "It is 8.<|im_end|>"


def test_a_template_that_rewrites_the_answer_gives_a_response_with_an_end(model: str) -> None:
    tokenizer = load_tokenizer(model, Student(model=model))
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ '' if m.role == 'assistant' else m.content }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>Think: {% endif %}"
    )
    prompt, response = encode_pair(tokenizer, SINGLE, "It is 7.", {})
    assert tokenizer.decode(prompt).endswith("<|assistant|>Think: ")
    assert tokenizer.decode(response) == "It is 7.<|end|>"


def test_template_arguments_reach_the_template(model: str) -> None:
    tokenizer = load_tokenizer(model, Student(model=model))
    tokenizer.chat_template = "{{ mood }} " + resolve_template("plain")
    prompt, _ = encode_pair(tokenizer, SINGLE, "It is 7.", {"mood": "calm"})
    assert tokenizer.decode(prompt).startswith("calm<|user|>")


def test_a_template_may_be_a_file(model: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    tokenizer = load_tokenizer(model, Student(model=model, chat_template=str(file)))
    assert tokenizer.decode(encode_pair(tokenizer, SINGLE, "7", {})[0]) == "What is 3 + 4?<|end|>"


def test_a_refused_conversation_is_told_from_a_broken_template(model: str, tmp_path: Path) -> None:
    file = tmp_path / "strict.jinja"
    file.write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role\n not supported') }}{% endif %}"
        + resolve_template("plain")
    )
    tokenizer = load_tokenizer(model, Student(model=model, chat_template=str(file)))
    assert encode_pair(tokenizer, SINGLE, "It is 7.", {}) == encode_pair(load_tokenizer(model, Student(model=model)),
                                                                        SINGLE, "It is 7.", {})  # fmt: skip
    for encode in (lambda: encode_prompt(tokenizer, TURNS, {}), lambda: encode_pair(tokenizer, SYSTEM, "It is 7.", {})):
        with pytest.raises(TemplateRefused) as refused:
            encode()
        assert refused.value.reason == "template_refused: System role not supported"
    for broken in ("{% if %}", "{{ raise_exception('never') }}"):
        file.write_text(broken)
        with pytest.raises(InputError, match=r"student\.chat_template"):
            load_tokenizer(model, Student(model=model, chat_template=str(file)))


def test_a_template_that_writes_the_date_gives_a_warning(model: str, tmp_path: Path) -> None:
    file = tmp_path / "dated.jinja"
    file.write_text("{{ date_string or strftime_now('%d %b %Y') }}" + resolve_template("plain"))
    sentence = dated(Student(model=model, chat_template=str(file)))
    assert sentence is not None and "student.chat_template_kwargs.date_string" in sentence
    fixed = {"date_string": "26 Jul 2024"}
    assert dated(Student(model=model, chat_template=str(file), chat_template_kwargs=fixed)) is None
    assert dated(Student(model=model)) is dated(Student(model="owner/model")) is None


def test_a_tokenizer_is_read_from_its_hf_files_also_next_to_mistrals_own(model: str, tmp_path: Path) -> None:
    """transformers prefers `tekken.json`, whose tokenizer has no chat template."""
    folder = tmp_path / "mistral"
    shutil.copytree(model, folder)
    (folder / "tekken.json").write_text("{}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    ours, mistral = (load_tokenizer(str(place), Student(model=str(place))) for place in (model, folder))
    assert mistral.chat_template == ours.chat_template and mistral("What is 3?") == ours("What is 3?")


def test_a_missing_file_is_named_with_the_key_to_set(model: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chatml, llama2, plain, vicuna"):
        resolve_template("nothing")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_tokenizer(str(tmp_path), Student(model=str(tmp_path)))
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (bare / file).write_bytes((Path(model) / file).read_bytes())
    with pytest.raises(InputError, match=r"student\.chat_template"):
        load_tokenizer(str(bare), Student(model=str(bare)))
    assert template_names() == ["chatml", "llama2", "plain", "vicuna"]
