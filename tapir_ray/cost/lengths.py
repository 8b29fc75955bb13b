"""Share of the seed data's pairs that do not fit into a training sequence.

share = over_length(config, seed)        # 0.03; None without a tokenizer
"""

from __future__ import annotations

from pathlib import Path

from tapir_ray.config import Config
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError
from tapir_ray.train.chat import encode_pair, end_of_turn, load_tokenizer
from tapir_ray.train.control_tokens import RowRefused

ROWS = 1_000


def over_length(config: Config, seed: Seed) -> float | None:
    """Returns the share of the answered pairs in the sample above `train.sequence_length` tokens.

    None without a tokenizer on this machine (a student of `student.create`, a hub name without a network), and if the
    seed data's own answers are not trained on. Pairs that the chat template refuses count as fitting, as they are
    filtered for another reason.
    """
    student = config.student
    rows = [row for row in seed.sample if row["response"] is not None][:ROWS]
    if student.model is None or not student.spec.local or config.seed_data.responses == "replace" or not rows:
        return None
    try:
        tokenizer = load_tokenizer(student.model, student)
    except InputError:
        if Path(student.model).exists() or is_remote(student.model):
            raise
        return None  # a hub name, and this machine has no access to the hub
    end = end_of_turn(tokenizer, student.chat_template_kwargs)
    longer = 0
    for row in rows:
        try:
            prompt, answer = encode_pair(tokenizer, row["messages"], row["response"], student.chat_template_kwargs, end)
        except RowRefused:
            continue
        longer += len(prompt) + len(answer) > config.train.sequence_length
    return longer / len(rows)
