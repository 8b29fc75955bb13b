"""Conversations as token ids: chat templates by name or file, and prompt and response of a pair.

    tokenizer = load_tokenizer("runs/x/checkpoints/01", config.student)
    prompt_ids, response_ids = encode_pair(tokenizer, row["messages"], row["response"], {})

The one place that says how a conversation looks to the student, for training, scoring and export alike.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from tapir_ray.config import Student
from tapir_ray.data.schemas import Message
from tapir_ray.errors import InputError
from tapir_ray.run.model_store import local
from tapir_ray.train.rendering import TemplateRefused, chat_template_of

TEMPLATES = Path(__file__).parent / "templates"

IGNORED = -100
"""Label of a token that is not in the loss."""

_PROBE = "5f2c91"
"""A response that no template contains, to find what a template writes after it."""

_QUESTION = """What is <b class="x">'a & b'</b>?\n\n\t1.  5f2c92 {{ 7 }}\n\\u00e9 é 字 end"""
_ANSWER = _QUESTION.replace("5f2c92", "5f2c93")
"""Texts with what a template could escape, fold or cut."""


def template_names() -> list[str]:
    """Names of the shipped chat templates."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def resolve_template(name_or_file: str) -> str:
    """Jinja text of a shipped template, or of a file. Raises InputError where there is neither."""
    shipped = TEMPLATES / f"{name_or_file}.jinja"
    if name_or_file in template_names():
        return shipped.read_text().rstrip("\n")
    try:
        return Path(name_or_file).read_text()
    except OSError as error:
        raise InputError(
            f"student.chat_template {name_or_file!r} is neither a file nor one of {', '.join(template_names())}"
        ) from error


def load_tokenizer(model: str, student: Student) -> Any:
    """The tokenizer of `model` (a folder, URI or HF name) with the run's chat template set.

    Raises InputError, with what to set, where there is no tokenizer, no end token or no usable chat template.
    """
    try:
        tokenizer = _hf_tokenizer(model, student)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"student.model: no tokenizer could be loaded from {model}; the folder needs tokenizer.json and "
            f"tokenizer_config.json beside the weights ({' '.join(str(error).split())[:200]})"
        ) from error
    if student.chat_template is not None:
        tokenizer.chat_template = resolve_template(student.chat_template)
    if not tokenizer.chat_template:
        raise InputError(
            f"{model} brings no chat template: set student.chat_template to one of "
            f"{', '.join(template_names())} or to a file"
        )
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {model} has no eos_token: name one in its tokenizer_config.json")
    check_template(tokenizer, student.chat_template_kwargs)
    return tokenizer


def shared_tokenizer(model: str, student: Student) -> Any:
    """`load_tokenizer`, once a process: tasks of several stages run in the same one, and the import takes seconds."""
    return _loaded(model, student.model_dump_json())


@functools.lru_cache(maxsize=4)
def _loaded(model: str, student_json: str) -> Any:
    return load_tokenizer(model, Student.model_validate_json(student_json))


def shared_stop_token_ids(model: str, student: Student) -> list[int]:
    """`stop_token_ids` of `load_tokenizer`, found once a process."""
    return list(_stops(model, student.model_dump_json()))


@functools.lru_cache(maxsize=4)
def _stops(model: str, student_json: str) -> tuple[int, ...]:
    kwargs = Student.model_validate_json(student_json).chat_template_kwargs
    return tuple(stop_token_ids(_loaded(model, student_json), kwargs))


def encode_prompt(tokenizer: Any, messages: Sequence[Message], chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Token ids that the student is shown for `messages`, up to where its answer begins.

    A control token in a message is text. Raises RowRefused: SpecialToken if the tokenizer cannot write it as text,
    TemplateRefused if the template does not take the messages or loses part of them.
    """
    template = chat_template_of(tokenizer, chat_template_kwargs)
    return template.control.encode(template.render(template.as_text(messages), for_answer=True))


def encode_pair(
    tokenizer: Any,
    messages: Sequence[Message],
    response: str,
    chat_template_kwargs: dict[str, Any],
    end: list[int] | None = None,
) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids): the prompt as the engine shows it; the response ends with the end of turn.

    If the template renders the whole conversation as a continuation of the prompt, the response is that continuation;
    else (templates that rewrite earlier turns) it is the response's own tokens and the end of turn. Thoughts that the
    prompt opens are closed before the answer. `end` is `end_of_turn(...)`, for callers that encode many pairs. Raises
    RowRefused as `encode_prompt` does.
    """
    template = chat_template_of(tokenizer, chat_template_kwargs)
    turns = template.as_text([*messages, {"role": "assistant", "content": response}])
    said = turns[-1]["content"]
    shown = template.render(turns[:-1], for_answer=True)
    prompt = template.control.encode(shown)
    whole = template.render(turns, for_answer=False)
    end = end_of_turn(tokenizer, chat_template_kwargs) if end is None else end
    answer: list[int] = []
    if whole.startswith(shown) and template.holds(whole[len(shown) :], said):
        conversation = template.control.encode(whole)
        if conversation[: len(prompt)] == prompt:
            answer = conversation[len(prompt) :]
        else:
            answer = template.control.encode_after(whole[len(shown) :])
    if end[-1] in answer:
        return prompt, answer[: len(answer) - answer[::-1].index(end[-1])]
    closed = template.closed(said)
    own = template.control.encode(said) if closed == said else template.control.encode_after(closed)
    return prompt, [*own, *end]


def end_of_turn(tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Token ids that close a response; the last of them is where an engine must stop.

    They are what the template writes after a response, up to its first special token. Where it writes none (a base
    model's tokenizer without the template's marks) no engine could stop there, and it is eos alone.
    Raises InputError for a template that is no Jinja or takes no question and answer at all.
    """
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
    try:
        text = chat_template_of(tokenizer, chat_template_kwargs).render(turns, for_answer=False)
    except (TemplateRefused, jinja2.TemplateSyntaxError) as error:
        raise InputError(
            f"the chat template cannot write a question and its answer ({error}): correct student.chat_template or "
            "student.chat_template_kwargs"
        ) from error
    suffix = text.rpartition(_PROBE)[2] if _PROBE in text else ""
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    ids = tokenizer(suffix, add_special_tokens=False)["input_ids"]
    for position, token in enumerate(ids):
        if token in special:
            return ids[: position + 1]
    return [tokenizer.eos_token_id]


def check_template(tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> None:
    """Raises InputError for a chat template that takes no question and answer, or does not write them as they are."""
    end_of_turn(tokenizer, chat_template_kwargs)
    template = chat_template_of(tokenizer, chat_template_kwargs)
    question, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    try:
        template.render([question], for_answer=True)
        # An answer is not looked for in the last turn, so there is a question after it.
        whole = template.render([question, answer], for_answer=False)
        if _ANSWER not in whole:
            raise TemplateRefused("the chat template leaves out or changes the answer")
    except TemplateRefused as error:
        raise InputError(
            f"{error} of a plain question and its answer, so none could be learnt as it is: correct "
            "student.chat_template or student.chat_template_kwargs"
        ) from error


def stop_token_ids(tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Ids at which an engine stops (`generation_config.eos_token_id`): the end of turn first, then eos."""
    return list(dict.fromkeys([end_of_turn(tokenizer, chat_template_kwargs)[-1], tokenizer.eos_token_id]))


def dated(student: Student) -> str | None:
    """A sentence for the user where the student's chat template, as far as it is here, writes the day's date."""
    template = resolve_template(student.chat_template) if student.chat_template is not None else None
    if template is None and student.model is not None and Path(student.model).is_dir():
        template = load_tokenizer(student.model, student).chat_template
    # Where a date is given such templates take it.
    if template is None or "strftime_now" not in template or "date_string" in student.chat_template_kwargs:
        return None
    return (
        "the student's chat template writes the day's date into every prompt, so training, scoring and serving show "
        "another one each day: set student.chat_template_kwargs.date_string, if the template takes it"
    )


def brings_template(model: str, student: Student) -> bool:
    """Whether the tokenizer of `model` has a chat template of its own, as chat models do and base models do not."""
    return bool(_hf_tokenizer(model, student).chat_template)


def _hf_tokenizer(model: str, student: Student) -> Any:
    """The tokenizer as its HF files have it, also where Mistral's own (`tekken.json`, which knows no chat template)
    lie beside them."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        local(model),
        revision=student.revision if model == student.model else None,
        trust_remote_code=student.trust_remote_code,
        mistral_format=False,
    )
