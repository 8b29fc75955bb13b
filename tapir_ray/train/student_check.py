"""Whether a student can be trained, answer and be written, looked at before anything is spent.

    for doubt in check_student(config.student, config.train): print(f"warning: {doubt}", file=sys.stderr)

Needs no GPU, and reads of the weights only what they are called and their shapes.
"""

from __future__ import annotations

from tapir_ray.config import Student, Train
from tapir_ray.train.chat import check_template, load_tokenizer, resolve_template
from tapir_ray.train.export_check import try_export
from tapir_ray.train.lora import check_target_modules
from tapir_ray.train.model_config import check_model
from tapir_ray.train.weights import is_here, load_student, refuse_files


def check_student(student: Student, train: Train) -> list[str]:
    """Sentences for the user about what of the student's files will not be used.

    Raises InputError, with what to change, if the student cannot be trained, answer or be written. Of a hub name of
    which this machine has no copy only the chat template is looked at; the rest is when it is loaded.
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
                f"the student is written without {', '.join(left_out)}, which the generation_config.json of "
                f"{student.model} has to no effect"
            )
    else:
        if student.chat_template is not None:
            resolve_template(student.chat_template)
        return warnings
    if train.lora is not None:
        check_target_modules(student, train.lora, student.model)
    return warnings


def _tokenizer_to_be(student: Student) -> object:
    """A tokenizer with the marks of a created student's and no words."""
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
