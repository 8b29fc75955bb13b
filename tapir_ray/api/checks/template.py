"""Check of chat template and end token: a student that never learns to stop fails without an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tapir_ray.api.checks.base import PASS, UNKNOWN, WARN, Finding, Subject
from tapir_ray.methods import method_of
from tapir_ray.train.chat import brings_template, end_of_turn, load_tokenizer, resolve_template, stop_token_ids
from tapir_ray.train.weights import is_here

NAME = "end of an answer"
MARK = re.compile(r"<\|\w+\|>")


def end_of_answers(subject: Subject) -> Iterator[Finding]:
    """Yields what ends an answer in training and in the engine, and whether base model and template fit together."""
    config, student = subject.config, subject.config.student
    if not method_of(config).trains or not student.spec.local:
        return
    if student.model is None:
        yield Finding(NAME, PASS, "a created student has the end token of its template")
        return
    if not is_here(student.model, "student.model", student.revision):
        yield Finding(NAME, UNKNOWN, f"{student.model} is not on this machine", "download it, or see the run's start")
        return
    tokenizer = load_tokenizer(student.model, student)
    kwargs = student.chat_template_kwargs
    end, stops = end_of_turn(tokenizer, kwargs), stop_token_ids(tokenizer, kwargs)
    own = brings_template(student.model, student)
    shown = f"{_token(tokenizer, end[-1])}; the engine stops at {', '.join(_token(tokenizer, one) for one in stops)}"
    problems = list(_problems(subject, tokenizer, end, own))
    for found, todo in problems:
        yield Finding(NAME, WARN, found, todo)
    if not problems:
        whose = "the model's own template" if student.chat_template is None else f"template {student.chat_template}"
        yield Finding(NAME, PASS, f"{whose} ends an answer with {shown}")


def _problems(subject: Subject, tokenizer: Any, end: list[int], own: bool) -> Iterator[tuple[str, str]]:
    """Yields (problem, advice)."""
    student, lora = subject.config.student, subject.config.train.lora
    if own and student.chat_template is not None:
        theirs = _own_template(student)
        if theirs.strip() != resolve_template(student.chat_template).strip():
            yield (
                f"student.chat_template {student.chat_template} replaces the template that {student.model} was tuned "
                "with: it has to unlearn its own",
                "leave student.chat_template out",
            )
    if not own and lora is not None and end[-1] != tokenizer.eos_token_id:
        yield (
            f"answers end with {_token(tokenizer, end[-1])}, which a base model has hardly seen, and train.lora leaves "
            "its embedding as it is: the student may never learn to stop",
            "set student.chat_template plain, which ends with the model's own end token, or train all weights",
        )
    if not own and student.chat_template is not None:
        marks = _split_marks(tokenizer, resolve_template(student.chat_template))
        if marks:
            yield (
                f"the marks of template {student.chat_template} are plain text for this tokenizer ({marks[0]} becomes "
                "several tokens), so users can write them too",
                "set student.chat_template plain, or add the marks to the tokenizer as special tokens",
            )


def _own_template(student: Any) -> str:
    return str(load_tokenizer(student.model, student.model_copy(update={"chat_template": None})).chat_template)


def _split_marks(tokenizer: Any, template: str) -> list[str]:
    """Returns marks such as <|im_end|> in a template that are no tokens of the tokenizer."""
    vocabulary = tokenizer.get_vocab()
    return [mark for mark in dict.fromkeys(MARK.findall(template)) if mark not in vocabulary]


def _token(tokenizer: Any, token_id: int) -> str:
    return f"{tokenizer.convert_ids_to_tokens(token_id)} ({token_id})"
