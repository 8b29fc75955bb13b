"""Checks, before anything is spent, that a classifier can be used or fine-tuned.

check_classifier(config.classify)
"""

from __future__ import annotations

from tapir_ray.config import Classify
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.run.model_store import local
from tapir_ray.train.weights import is_here, load_classifier, refuse_files, refuse_sizes

KEY = "classify.model"


def check_classifier(classify: Classify) -> None:
    """Raises InputError, with names, if files or weights of `classify.model` are missing, unexpected or misshapen.

    A model to fine-tune (`label_rows` > 0) may lack the head. A hub name without a copy on this machine is not checked.
    Reads names and shapes of weights, not the weights.
    """
    if classify.by != "deberta" or classify.model is None or not is_here(classify.model, KEY):
        return
    from transformers import AutoTokenizer

    refuse_files(classify.model, KEY)
    trusted = classify.trust_remote_code
    model = load_classifier(
        classify.model, KEY, new_head=classify.label_rows > 0, device_map="meta", trust_remote_code=trusted
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(local(classify.model), trust_remote_code=trusted)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{KEY}: no tokenizer could be loaded from {classify.model} ({one_line(error)[:200]})"
        ) from error
    refuse_sizes(tokenizer, model, classify.model, KEY)
