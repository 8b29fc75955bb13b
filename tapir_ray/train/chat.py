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
from tapir_ray.errors import InputError
from tapir_ray.models import local
from tapir_ray.records import Message

TEMPLATES = Path(__file__).parent / "templates"

IGNORED = -100
"""Label of a token that is not in the loss."""

_PROBE = "5f2c91"
"""A response that no template contains, to find what a template writes after it."""


class TemplateRefused(Exception):
    """A conversation that the chat template does not take (a system turn, roles that do not alternate).

    The text is the template's own sentence; of such a row it is the reason, after `template_refused: `.
    """

    @property
    def reason(self) -> str:
        """The `reason` of a filtered row."""
        return f"template_refused: {self}"


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
    end_of_turn(tokenizer, student.chat_template_kwargs)
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
    """Token ids that the student is shown for `messages`, up to where its answer begins. Raises TemplateRefused."""
    return _render_ids(tokenizer, messages, chat_template_kwargs, add_generation_prompt=True)


def encode_pair(
    tokenizer: Any,
    messages: Sequence[Message],
    response: str,
    chat_template_kwargs: dict[str, Any],
    end: list[int] | None = None,
) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids): the prompt as the engine shows it; the response ends with the end of turn.

    Where the template renders the whole conversation as a continuation of the prompt, the response is that
    continuation; else (templates that rewrite earlier turns) it is the response's own tokens and the end of turn.
    `end` is `end_of_turn(...)`, for callers that encode many pairs. Raises TemplateRefused.
    """
    prompt = encode_prompt(tokenizer, messages, chat_template_kwargs)
    turns = [*messages, {"role": "assistant", "content": response}]
    conversation = _render_ids(tokenizer, turns, chat_template_kwargs, add_generation_prompt=False)
    if end is None:
        end = end_of_turn(tokenizer, chat_template_kwargs)
    if conversation[: len(prompt)] == prompt:
        answer = conversation[len(prompt) :]
        if end[-1] in answer:
            return prompt, answer[: len(answer) - answer[::-1].index(end[-1])]
    return prompt, [*tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"], *end]


def end_of_turn(tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Token ids that close a response; the last of them is where an engine must stop.

    They are what the template writes after a response, up to its first special token. Where it writes none (a base
    model's tokenizer without the template's marks) no engine could stop there, and it is eos alone.
    Raises InputError for a template that is no Jinja or takes no question and answer at all.
    """
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PROBE}]
    try:
        text = _render(tokenizer, turns, chat_template_kwargs)
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


def stop_token_ids(tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Ids at which an engine stops (`generation_config.eos_token_id`): the end of turn first, then eos."""
    return list(dict.fromkeys([end_of_turn(tokenizer, chat_template_kwargs)[-1], tokenizer.eos_token_id]))


def _render_ids(
    tokenizer: Any, messages: Sequence[Message], chat_template_kwargs: dict[str, Any], add_generation_prompt: bool
) -> list[int]:
    text = _render(tokenizer, messages, chat_template_kwargs, add_generation_prompt=add_generation_prompt)
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _render(tokenizer: Any, messages: Sequence[Message], chat_template_kwargs: dict[str, Any], **options: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options, **chat_template_kwargs))
    except jinja2.TemplateSyntaxError:
        raise
    except jinja2.TemplateError as error:
        raise TemplateRefused(" ".join(str(error).split())[:200]) from None


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
