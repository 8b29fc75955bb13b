"""Tries the export of a student before its first step: writes and reads everything but the weights.

left_out = try_export(model, tokenizer, "my/folder", config.student)      # the model may be without weights
"""

from __future__ import annotations

import copy
import tempfile
from typing import Any

from tapir_ray.config import Student
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.train.chat import stop_token_ids
from tapir_ray.train.generation import adapt
from tapir_ray.train.weights import refuse_sizes

_TEXT = "What is 3 + 4?\n\n  It is 7. é 字"


def try_export(model: Any, tokenizer: Any, name: str, student: Student) -> list[str]:
    """Returns the keys of the model's generation config that cannot be written and will be left out.

    Raises InputError, which says what to change, if a student of this model could not be written, or would be read back
    differently. Checks config, generation config, tokenizer, chat template, and the sizes of tokenizer and embedding.
    """
    from transformers import AutoTokenizer

    refuse_sizes(tokenizer, model, name)
    generation = copy.deepcopy(model.generation_config)  # `adapt` changes it
    left_out = adapt(generation, tokenizer, stop_token_ids(tokenizer, student.chat_template_kwargs))
    with tempfile.TemporaryDirectory(prefix="tapir-export-") as folder:
        try:
            generation.save_pretrained(folder)
            model.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            again = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=student.trust_remote_code, mistral_format=False
            )
        except Exception as error:  # remote code of a tokenizer may raise anything
            raise InputError(
                f"student.model {name}: a student of it could not be written ({type(error).__name__}: "
                f"{one_line(error)[:300]}); correct its files, or name another model"
            ) from error
    same = again(_TEXT)["input_ids"] == tokenizer(_TEXT)["input_ids"] and again.get_vocab() == tokenizer.get_vocab()
    if not same or again.chat_template != tokenizer.chat_template:
        what = "another chat template" if same else "a tokenizer with other ids"
        raise InputError(
            f"student.model {name}: a student of it would be written with {what} than it was trained with; save its "
            "tokenizer again with this version of transformers and name that folder"
        )
    return left_out
