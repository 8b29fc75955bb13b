"""Checks, before anything is spent, that a student can be trained, can answer and can be exported.

    for warning in check_student(config.student, config.train): print(f"warning: {warning}", file=sys.stderr)

Needs no GPU, and reads only names and shapes of weights.
"""

from __future__ import annotations

from tapir_ray.config import Student, Train
from tapir_ray.train.chat import check_template, load_tokenizer, resolve_template
from tapir_ray.train.export_check import try_export
from tapir_ray.train.lora import check_target_modules
from tapir_ray.train.model_config import check_length, check_model
from tapir_ray.train.weights import is_here, load_student, refuse_files


def check_student(student: Student, train: Train) -> list[str]:
    """Warnings about parts of the student's files that will not be used.

    Raises InputError, which says what to change, if the student cannot be trained, answer or be exported. For a hub
    name without a copy on this machine only the chat template is checked; the rest is checked when it is loaded.
    """
    warnings: list[str] = []
    if student.model is None:
        check_template(_tokenizer_to_be(student), student.chat_template_kwargs)
    elif is_here(student.model, "student.model", student.revision):
        refuse_files(student.model, "student.model")
        tokenizer = load_tokenizer(student.model, student)
        check_model(student, train, student.model)
        model = load_student(student.model, student, device_map="meta")
        if left_out := try_export(model, tokenizer, student.model, student):
            warnings.append(
                f"the student is written without {', '.join(left_out)}: these keys of the generation_config.json of "
                f"{student.model} have no effect"
            )
    else:
        if student.chat_template is not None:
            resolve_template(student.chat_template)
        return warnings
    if train.lora is not None:
        check_target_modules(student, train.lora, student.model)
    return warnings


def check_answering(student: Student) -> None:
    """Checks files, chat template and context length of `student.model`, which is to answer and not to be trained.

    Raises InputError, which says what to change. A hub name that is not on this machine is checked when it is loaded.
    """
    assert student.model is not None
    if is_here(student.model, "student.model", student.revision):
        refuse_files(student.model, "student.model")
        load_tokenizer(student.model, student)
        check_length(student, student.model)


def _tokenizer_to_be(student: Student) -> object:
    """A tokenizer with the special tokens of a created student and no vocabulary."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from tapir_ray.train.create_student import END, PAD, SPECIAL_TOKENS

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()),
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[1:-1]),
        chat_template=resolve_template(student.chat_template or "plain"),
    )
