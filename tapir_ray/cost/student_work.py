"""Forecast of the scoring's work that asks no endpoint: answers, samples and losses of a student that runs here.

    student_work(config, seed)      # {"answers": 2600, "samples": 16000, "tokens_at_most": 744000, "losses": 0}

A student behind an endpoint is a role of the estimate (`estimate.py`).
"""

from __future__ import annotations

from typing import Any

from tapir_ray.config import Config
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.curriculum.measures import configured_measure


def student_work(config: Config, seed: Seed) -> dict[str, Any] | None:
    """Returns upper bounds of the student's answers, samples, tokens written, and rows with losses, over all rounds.

    The holdout is answered in each round and after the last one, and never sampled. None for a student behind an
    endpoint.
    """
    if not config.student.spec.local:
        return None
    if config.work == "elad":
        return _elad_work(config, seed)
    needs, rounds = configured_measure(config.curriculum.difficulty), config.curriculum.rounds
    held = sum(seed.held_out(config).values())
    old, most = seed.usable - held, config.score.max_rows
    rows = sum(min(most, old + before * config.expand.size) for before in range(rounds))
    rows = 0 if config.curriculum.difficulty.select == "none" else rows
    answers = rows + (rounds + 1) * held if needs.asks_student else 0
    samples = rows * needs.samples
    return {
        "answers": answers,
        "samples": samples,
        "tokens_at_most": (answers + samples) * config.student.sampling.max_tokens,
        "losses": rows if needs.losses else 0,
    }


def _elad_work(config: Config, seed: Seed) -> dict[str, Any]:
    """Returns the bounds of ELAD: explanations of a round, k samples of each, and k of each of its prefixes."""
    settings, rounds = config.elad, config.curriculum.rounds
    held = sum(seed.held_out(config).values())
    candidates = rounds * min(config.score.max_rows, seed.usable - held)
    chosen = rounds * min(settings.annotations, config.score.max_rows, seed.usable - held)
    explained = {"uncertain": candidates, "random": chosen, "mfd": candidates + chosen}[settings.select]
    samples = candidates * settings.samples * (1 + settings.max_prefixes) if settings.select == "uncertain" else 0
    answers = explained + (rounds + 1) * held
    return {
        "answers": answers,
        "samples": samples,
        "tokens_at_most": (answers + samples) * config.student.sampling.max_tokens,
        "losses": 0,
    }
