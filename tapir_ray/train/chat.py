"""Encodes conversations as token ids: chat templates by name or file, prompt and response of a pair.

    tokenizer = load_tokenizer("runs/x/checkpoints/01", config.student)
    prompt_ids, response_ids = encode_pair(tokenizer, row["messages"], row["response"], {})

Training, scoring and export all use this module, so the student always sees a conversation in the same form.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from tapir_ray.config import Student
from tapir_ray.data.schemas import Message
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.run.model_store import local
from tapir_ray.train.rendering import TemplateRefused, chat_template_of

TEMPLATES = Path(__file__).parent / "templates"

IGNORED = -100
"""Label of a token outside the loss: the default `ignore_index` of torch's cross-entropy."""

_PROBE = "5f2c91"
"""A response that no template contains, to find the text that a template writes after it."""

_QUESTION = """What is <b class="x">'a & b'</b>?\n\n\t1.  5f2c92 {{ 7 }}\n\\u00e9 é 字 end"""
_ANSWER = _QUESTION.replace("5f2c92", "5f2c93")
"""Texts with everything that a template might escape, fold or cut."""


def template_names() -> list[str]:
    """Names of the shipped chat templates."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def resolve_template(name_or_file: str) -> str:
    """Jinja text of a shipped template or of a file. Raises InputError if neither exists."""
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
    """The tokenizer of `model` (a folder, URI or HF name) with the chat template of the run set.

    Raises InputError, which says what to set, if there is no tokenizer, no end token or no usable chat template.
    """
    try:
        tokenizer = _hf_tokenizer(model, student)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"student.model: no tokenizer could be loaded from {model}; the folder needs tokenizer.json and "
            f"tokenizer_config.json next to the weights ({one_line(error)[:200]})"
        ) from error
    if student.chat_template is not None:
        tokenizer.chat_template = resolve_template(student.chat_template)
    if not tokenizer.chat_template:
        raise InputError(
            f"{model} has no chat template: set student.chat_template to one of "
            f"{', '.join(template_names())} or to a file"
        )
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {model} has no eos_token: set one in its tokenizer_config.json")
    check_template(tokenizer, student.chat_template_kwargs)
    return tokenizer


def shared_tokenizer(model: str, student: Student) -> Any:
    """`load_tokenizer`, cached in the process: tasks of several stages share one, and loading takes seconds."""
    return _loaded(model, student.model_dump_json())


@functools.lru_cache(maxsize=4)
def _loaded(model: str, student_json: str) -> Any:
    return load_tokenizer(model, Student.model_validate_json(student_json))


def shared_stop_token_ids(model: str, student: Student) -> list[int]:
    """`stop_token_ids` of `load_tokenizer`, cached in the process."""
    return list(_stops(model, student.model_dump_json()))


@functools.lru_cache(maxsize=4)
def _stops(model: str, student_json: str) -> tuple[int, ...]:
    kwargs = Student.model_validate_json(student_json).chat_template_kwargs
    return tuple(stop_token_ids(_loaded(model, student_json), kwargs))


def encode_prompt(tokenizer: Any, messages: Sequence[Message], chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Token ids of the prompt for `messages`, up to the start of the answer.

    A control token that occurs in a message is encoded as plain text. Raises RowRefused: SpecialToken if the tokenizer
    cannot do that, TemplateRefused if the template rejects the messages or loses part of them.
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
    """(prompt ids, response ids): the prompt as an engine encodes it, the response with its end of turn.

    If the template renders the whole conversation as a continuation of the prompt, the response is that continuation.
    Otherwise (the template rewrites earlier turns) it is the response's own tokens and the end of turn. Thoughts that
    the prompt opens are closed before the answer. Callers that encode many pairs pass `end`, the result of
    `end_of_turn`. Raises RowRefused as `encode_prompt` does.
    """
    template = chat_template_of(tokenizer, chat_template_kwargs)
    turns = template.as_text([*messages, {"role": "assistant", "content": response}])
    text = turns[-1]["content"]
    shown = template.render(turns[:-1], for_answer=True)
    prompt = template.control.encode(shown)
    whole = template.render(turns, for_answer=False)
    end = end_of_turn(tokenizer, chat_template_kwargs) if end is None else end
    answer: list[int] = []
    if whole.startswith(shown) and template.holds(whole[len(shown) :], text):
        conversation = template.control.encode(whole)
        if conversation[: len(prompt)] == prompt:
            answer = conversation[len(prompt) :]
        else:
            # A token spans the border of prompt and answer. At inference the prompt is encoded alone, so split there.
            answer = template.control.encode_after(whole[len(shown) :])
    # Cuts text that the template writes after the end of turn: the engine stops there.
    if end[-1] in answer:
        return prompt, answer[: len(answer) - answer[::-1].index(end[-1])]
    closed = template.closed(text)
    own = template.control.encode(text) if closed == text else template.control.encode_after(closed)
    return prompt, [*own, *end]


def encode_begun(
    tokenizer: Any, messages: Sequence[Message], begun: str, chat_template_kwargs: dict[str, Any]
) -> list[int]:
    """Token ids of the prompt and of the begin of an answer, for an engine to continue it.

    They are those of `encode_pair` without the end of turn. Raises RowRefused as `encode_prompt` does.
    """
    end = end_of_turn(tokenizer, chat_template_kwargs)
    prompt, answer = encode_pair(tokenizer, messages, begun, chat_template_kwargs, end)
    # A token may span the border of the text and the end of turn; then only the last token is surely of the end.
    return [*prompt, *(answer[: -len(end)] if answer[-len(end) :] == end else answer[:-1])]


def end_of_turn(tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Token ids that close a response; an engine must stop at the last of them.

    They encode the text that the template writes after a response, up to its first special token. If it writes no
    special token (a base model's tokenizer lacks the marks of the template), no engine could stop there; the result is
    then eos alone. Raises InputError for a template that is not valid Jinja or rejects a question and answer.
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
    """Raises InputError for a chat template that rejects a question and answer, or changes their text."""
    end_of_turn(tokenizer, chat_template_kwargs)
    template = chat_template_of(tokenizer, chat_template_kwargs)
    question, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    try:
        template.render([question], for_answer=True)
        # `render` does not check the last answer, so it is checked here.
        whole = template.render([question, answer], for_answer=False)
        if _ANSWER not in whole:
            raise TemplateRefused("the chat template leaves out or changes the answer")
    except TemplateRefused as error:
        raise InputError(
            f"{error} of a plain question and its answer, so no answer could be learnt unchanged: correct "
            "student.chat_template or student.chat_template_kwargs"
        ) from error


def stop_token_ids(tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> list[int]:
    """Ids at which an engine stops (`generation_config.eos_token_id`): the end of turn first, then eos."""
    return list(dict.fromkeys([end_of_turn(tokenizer, chat_template_kwargs)[-1], tokenizer.eos_token_id]))


def dated(student: Student) -> str | None:
    """A warning if the student's chat template writes the current date; None otherwise, or if it is not available."""
    template = resolve_template(student.chat_template) if student.chat_template is not None else None
    if template is None and student.model is not None and Path(student.model).is_dir():
        template = load_tokenizer(student.model, student).chat_template
    # Such templates use `date_string` if it is given.
    if template is None or "strftime_now" not in template or "date_string" in student.chat_template_kwargs:
        return None
    return (
        "the student's chat template writes the current date into every prompt, so prompts of training, scoring and "
        "serving differ from day to day: set student.chat_template_kwargs.date_string, if the template takes it"
    )


def brings_template(model: str, student: Student) -> bool:
    """Returns whether the tokenizer of `model` has a chat template: chat models have one, base models do not."""
    return bool(_hf_tokenizer(model, student).chat_template)


def _hf_tokenizer(model: str, student: Student) -> Any:
    """The tokenizer in a model's HF files."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        local(model),
        revision=student.revision if model == student.model else None,
        trust_remote_code=student.trust_remote_code,
        # Mistral's own tokenizer file (`tekken.json`), which some folders also have, knows no chat template.
        mistral_format=False,
    )
