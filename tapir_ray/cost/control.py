"""Forecast of the control's work that asks no endpoint: answers of the student, and tokens to train on.

    control_work(config, seed)          # {"control": "sft", "student_answers": 800, "training_tokens": 1200000}

Its requests to the judge are lines of the estimate (`estimate.py`).
"""

from __future__ import annotations

import statistics
from typing import Any

from tapir_ray.config import Config
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.size import BYTES_PER_TOKEN
from tapir_ray.data.schemas import text_of

ASSUMED = (
    "control: a round trains on as many pairs as it has candidates, and on its expansions too under "
    "curriculum.difficulty.select none (or on mix.size), as long as seed pairs, one token for every 4 bytes"
)


def control_work(config: Config, seed: Seed) -> dict[str, Any] | None:
    """Returns the answers and the training tokens of the control in the whole run; None without a control.

    The tokens are a guess, since the pools of a round decide how much it trains on.
    """
    if config.control == "none":
        return None
    rounds, held = config.curriculum.rounds, sum(seed.held_out(config).values())
    return {
        "control": config.control,
        "student_answers": rounds * held,
        "training_tokens": round(_rounds_in_mixes(config) * _tokens_of_mix(config, seed, held) * config.train.epochs),
    }


def _rounds_in_mixes(config: Config) -> int:
    """Returns how many mixes all rounds together train on; a cumulative round trains on those before it too."""
    rounds = config.curriculum.rounds
    return rounds if config.train.data == "current" else rounds * (rounds + 1) // 2


def _tokens_of_mix(config: Config, seed: Seed, held: int) -> float:
    """Returns the guessed tokens of a round's training set, prompts and responses."""
    answered = [row for row in seed.sample if row["response"] is not None]
    prompt, response = (
        statistics.mean(len(text.encode()) for text in texts) / BYTES_PER_TOKEN if texts else 0.0
        for texts in ([text_of(row["messages"]) for row in seed.sample], [row["response"] for row in answered])
    )
    size = config.mix.size
    if size is None:
        # Without a selection no row is left out to meet α.
        fresh = config.expand.size if config.curriculum.difficulty.select == "none" else 0
        return (min(config.score.max_rows, seed.usable - held) + fresh) * (prompt + response)
    return size * (prompt + response) if config.mix.unit == "pairs" else size * (1 + prompt / max(1.0, response))
