"""Estimates the requests of a run of ELAD: seed data, scores, and the teacher's annotations.

estimate = estimated_elad(config, seed, taxonomy, sizes)
"""

from __future__ import annotations

from tapir_ray.config import Config
from tapir_ray.cost.estimate import Estimate, Line, add_line, apportioned, label_lines, merged
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.sizes import Sizes
from tapir_ray.curriculum.tasks import Taxonomy


def estimated_elad(config: Config, seed: Seed, taxonomy: Taxonomy, sizes: Sizes) -> Estimate:
    """Returns the requests of all rounds. A round annotates `elad.annotations` questions, as far as there are some."""
    lines: list[Line] = []
    held, rows = sum(seed.held_out(config).values()), seed.usable
    label_lines(lines, config, sizes, seed)
    pool = rows - held
    share = 0.0 if config.train.initial_sft == "off" else config.train.initial_share
    if config.seed_data.responses != "keep":
        asked = rows if config.answers_pool else held + share * pool
        unanswered = seed.unanswered / rows if config.seed_data.responses == "fill" else 1.0
        add_line(lines, config, sizes, "answer the seed data", "fill", sizes.tasks, asked * unanswered)
    # Only the rows of the initial SFT are surely seen by then, and a bound must not be too low.
    left = pool * (1.0 - share if config.score.candidates == "unseen" and config.certain_initial_sft else 1.0)
    spent = 0.0
    for number in range(1, config.curriculum.rounds + 1):
        if (annotations := annotations_of(config, spent, left)) <= 0:
            break
        asked_of = apportioned(
            config.score.max_rows, {task: part * left for task, part in sizes.tasks.items()}, taxonomy
        )
        if config.scores_candidates:
            add_line(lines, config, sizes, f"round {number} score", "score_seed", asked_of)
        add_line(lines, config, sizes, f"round {number} score", "score_holdout", {None: 1.0}, held)
        candidates = sum(asked_of.values())
        annotated = {task: count * annotations / max(1e-9, candidates) for task, count in asked_of.items()}
        add_line(lines, config, sizes, f"round {number} annotate", "annotate", annotated)
        spent += annotations
        left -= annotations if config.score.candidates == "unseen" else 0.0
    add_line(lines, config, sizes, "evaluate", "score_holdout", {None: 1.0}, held)
    return Estimate(merged(lines))


def annotations_of(config: Config, spent: float, questions: float) -> float:
    """Returns the annotations of a round after `spent` ones, with so many questions left to choose from."""
    budget = config.elad
    most = float("inf") if budget.max_annotations is None else budget.max_annotations - spent
    return max(0.0, min(budget.annotations, most, questions, config.score.max_rows))
