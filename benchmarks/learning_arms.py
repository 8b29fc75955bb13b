"""Arms and regimes of the learning benchmark, and the contrasts that were written down before it ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

TASKS = (
    "Math", "Reasoning", "Code Generation", "Code Debug", "Complex Format", "Common-Sense", "Counterfactual", "Grammar",
    "Paraphrase", "Writing",
)  # fmt: skip
UNIFORM = {"curriculum.weights": dict.fromkeys(TASKS, 0.1)}
SEED_SHARES = {"curriculum.tasks": "seed", "curriculum.weights": {}}
NOTHING_SELECTED = {"curriculum.difficulty.select": "none", "expand.sources": {"hard": 0.0, "easy": 0.0, "random": 1.0}}
BOTH_POOLS = {"hard": 0.5, "easy": 0.5, "random": 0.0}
HARD = {"curriculum.difficulty.select": "hard", "curriculum.difficulty.top_fraction": 0.5, "expand.sources": BOTH_POOLS}
FRONTIER = {**HARD, "curriculum.difficulty.select": "frontier"}
PLAIN: dict[str, Any] = {"rewrite.tasks": []}


@dataclass(frozen=True)
class Arm:
    """One way of making the rounds' training sets."""

    name: str
    what: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Config keys and their values."""
    alphas: tuple[float, ...] = (0.5, 0.5, 0.5)
    """α of each round."""
    seed_rows_only: bool = False


RISING, FALLING = (0.3, 0.5, 0.7), (0.7, 0.5, 0.3)
OF_SEED, EQUAL = {**SEED_SHARES, **NOTHING_SELECTED, **PLAIN}, {**UNIFORM, **NOTHING_SELECTED, **PLAIN}
HARDER, MIDDLE = {**UNIFORM, **HARD, **PLAIN}, {**UNIFORM, **FRONTIER, **PLAIN}
STYLED = {**UNIFORM, **HARD, "rewrite.tasks": "all"}
ARMS = {
    arm.name: arm
    for arm in (
        Arm("A0", "the seed rows again", seed_rows_only=True),
        Arm("A1", "A0 + expansions of random rows, tasks as in the seed data", OF_SEED),
        Arm("A2", "A1 + equal task shares", EQUAL),
        Arm("A3", "A2 + the harder half selected, α 0.5", HARDER),
        Arm("A3f", "A2 + the middle half selected (frontier), α 0.5", MIDDLE),
        Arm("A4", "A3 with rising α (0.3, 0.5, 0.7)", HARDER, RISING),
        Arm("A4r", "A3 with falling α (0.7, 0.5, 0.3)", HARDER, FALLING),
        Arm("A5", "A4 with answers in the task's style, unmarked", STYLED, RISING),
        Arm("A6", "A4 with answers in the task's style, marked", {**STYLED, "rewrite.mark": True}, RISING),
    )
}
CONTRASTS = (
    ("A1", "A0", "fresh data"),
    ("A2", "A1", "task balance"),
    ("A3", "A2", "difficulty"),
    ("A3f", "A2", "frontier"),
    ("A4", "A3", "rising α"),
    ("A4", "A4r", "rising against falling α"),
    ("A6", "A5", "marked styles"),
)


@dataclass(frozen=True)
class Regime:
    """The seed data and the start that all arms of a regime share."""

    name: str
    what: str
    seed_rows: int
    start_tokens: int
    """Tokens of the initial SFT."""
    round_tokens: int
    """Tokens of each of the three rounds."""
    expand: int
    """Draws of a round."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Config keys of all arms."""


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("c", "scarce seed data, used up by the initial SFT", 1000, 400_000, 133_000, 3000),
        Regime("b", "a competent start", 3000, 1_200_000, 167_000, 3500),
        Regime("f", "a strong student, for which most new rows are redundant", 12_000, 3_000_000, 167_000, 3500),
    )
}
