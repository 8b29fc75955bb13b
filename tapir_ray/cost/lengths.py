"""How many of the seed data's pairs do not fit into a training sequence.

share = over_length(config, seed)        # 0.03; None where there is no tokenizer yet
"""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.train.chat import TemplateRefused, encode_pair, end_of_turn, load_tokenizer

ROWS = 1_000


def over_length(config: Config, seed: Seed) -> float | None:
    """Share of the answered pairs in the sample that are longer than `train.sequence_length` tokens.

    None for a student that is made on the spot, whose tokenizer is not there yet, and where no row has an answer.
    Pairs that the chat template refuses count as fitting: they are filtered for that.
    """
    student = config.student
    rows = [row for row in seed.sample if row["response"] is not None][:ROWS]
    if student.model is None or student.engine == "openai" or not rows:
        return None
    tokenizer = load_tokenizer(student.model, student)
    end = end_of_turn(tokenizer, student.chat_template_kwargs)
    longer = 0
    for row in rows:
        try:
            prompt, answer = encode_pair(tokenizer, row["messages"], row["response"], student.chat_template_kwargs, end)
        except TemplateRefused:
            continue
        longer += len(prompt) + len(answer) > config.train.sequence_length
    return longer / len(rows)
