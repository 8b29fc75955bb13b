"""Arms and regimes of the learning benchmark, and the contrasts that were written down before it ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tapir_ray.config.curriculum import Curriculum
from tapir_ray.config.method import Mix
from tapir_ray.curriculum.schedule import alpha

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


SMALL = {"hidden_size": 64, "intermediate_size": 192, "layers": 2, "heads": 2}
"""Sizes of the small model of `superfilter`; its other settings are those of the student."""
SMALL_TOKENS = 0.25
"""Tokens of its training on the seed rows of the start, as a share of the start's tokens."""


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
    answered_again: bool = False
    """Whether the teacher answers the seed rows again before they are trained on."""


RISING, FALLING = (0.3, 0.5, 0.7), (0.7, 0.5, 0.3)
OF_SEED, EQUAL = {**SEED_SHARES, **NOTHING_SELECTED, **PLAIN}, {**UNIFORM, **NOTHING_SELECTED, **PLAIN}
HARDER, MIDDLE = {**UNIFORM, **HARD, **PLAIN}, {**UNIFORM, **FRONTIER, **PLAIN}
UNSEEN = {**HARDER, "score.candidates": "unseen", "expand.probe_share": 0.5}
LONG_ANSWERS = {"student.sampling.max_tokens": 96}
"""Styled answers have up to 86 tokens, right plain ones at most 39: the base config's limit of 40 would cut them."""
STYLED = {**UNIFORM, **HARD, **LONG_ANSWERS, "rewrite.tasks": "all"}
DEFAULTS = {
    **LONG_ANSWERS,
    "curriculum.weights": {},
    "curriculum.difficulty.top_fraction": None,
    "mix.max_repeat": Mix().max_repeat,
}
"""Changes that set the method's keys of `learning.yaml` and `config_of` to the product's defaults. Sizes of rows,
draws, batches and models stay those of the regime."""
DEFAULT_ALPHAS = tuple(
    alpha(number, Curriculum().alpha, Curriculum().alpha_step) for number in range(1, Curriculum().rounds + 1)
)


def measured_by(measure: str) -> dict[str, Any]:
    """Returns the changes of A3 with another difficulty measure."""
    return {**HARDER, "curriculum.difficulty.measure": measure}


ARMS = {
    arm.name: arm
    for arm in (
        Arm("A0", "the seed rows again", seed_rows_only=True),
        Arm("A0t", "A0 with the teacher's answers to the seed rows", seed_rows_only=True, answered_again=True),
        Arm("A1", "A0 + expansions of random rows, tasks as in the seed data", OF_SEED),
        Arm("A2", "A1 + equal task shares", EQUAL),
        Arm("A3", "A2 + the harder half selected, α 0.5", HARDER),
        Arm("A3f", "A2 + the middle half selected (frontier), α 0.5", MIDDLE),
        Arm("A3u", "A3 with difficulty of unseen rows: half of the draws are probes", UNSEEN),
        Arm("A3uf", "A3f with difficulty of unseen rows: half of the draws are probes", {**UNSEEN, **MIDDLE}),
        Arm("A4", "A3 with rising α (0.3, 0.5, 0.7)", HARDER, RISING),
        Arm("A4r", "A3 with falling α (0.7, 0.5, 0.3)", HARDER, FALLING),
        Arm("A5", "A4 with answers in the task's style, unmarked", STYLED, RISING),
        Arm("A6", "A4 with answers in the task's style, marked", {**STYLED, "rewrite.mark": True}, RISING),
        Arm("A7", "all defaults of the product, with the regime's sizes", DEFAULTS, DEFAULT_ALPHAS),
        Arm("M_ifd", "A3 with the measure ifd", measured_by("ifd")),
        Arm("M_superfilter", "A3 with the measure superfilter, by a smaller student", measured_by("superfilter")),
        Arm("M_self_consistency", "A3 with the measure self_consistency", measured_by("self_consistency")),
        Arm("M_frontier", "A3 with the measure frontier, p (1 − p)", measured_by("frontier")),
        Arm("M_unknown", "A3 with the measure unknown, 1 − p", measured_by("unknown")),
        Arm("M_ddk", "A3 with task weights that follow the gap (ddk)", {**HARDER, "curriculum.weights_by": "ddk"}),
        Arm("M_evolve", "A2 with evolved expansions", {**EQUAL, "expand.prompt": "evolve"}),
        Arm("M_feedback", "A3 with expansions by feedback", {**HARDER, "expand.prompt": "feedback"}),
    )
}
CONTRASTS = (
    ("A1", "A0", "fresh data"),
    ("A0t", "A0", "the teacher's answers alone"),
    ("A1", "A0t", "fresh data over the teacher's answers"),
    ("A2", "A1", "task balance"),
    ("A3", "A2", "difficulty"),
    ("A3f", "A2", "frontier"),
    ("A3u", "A2", "difficulty of unseen rows"),
    ("A3uf", "A2", "frontier of unseen rows"),
    ("A4", "A3", "rising α"),
    ("A4", "A4r", "rising against falling α"),
    ("A6", "A5", "marked styles"),
    ("A7", "A2", "all defaults"),
    ("M_ifd", "A3", "ifd instead of mfd"),
    ("M_superfilter", "A3", "superfilter instead of mfd"),
    ("M_self_consistency", "A3", "self_consistency instead of mfd"),
    ("M_frontier", "A3", "p (1 − p) instead of mfd"),
    ("M_unknown", "A3", "unknown instead of mfd"),
    ("M_ddk", "A3", "task weights by ddk"),
    ("M_evolve", "A2", "evolved expansions"),
    ("M_feedback", "A3", "expansions by feedback"),
)
METHODS = {
    arm: next(other for one, other, _ in CONTRASTS if one == arm) for arm in ARMS if arm == "A7" or arm.startswith("M_")
}
"""Arms of the product's other methods, and their base arms. They are measured in the regimes c and b."""
OTHER_METHODS = frozenset(METHODS)


REPLACED = frozenset({"A0t"})
"""Arms for wrong seed answers alone."""
ALL_SEEN = REPLACED | {"A3u", "A3uf"}
"""Arms that need seed rows that the initial SFT has not seen, or wrong ones."""


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
    start_share: float = 1.0
    """Share of the seed rows that the initial SFT is trained on."""
    seed_error_rate: float = 0.0
    """Share of the seed rows with a wrong answer."""
    teacher_error_rate: float = 0.0
    """Share of the instructions that the teacher answers wrongly."""
    without: frozenset[str] = ALL_SEEN
    """Arms that make no sense in the regime, or are not measured in it unless `--arms` names them."""

    def arms(self) -> list[str]:
        """Returns the names of the regime's arms."""
        return [name for name in ARMS if name not in self.without]


REGIMES = {
    regime.name: regime
    for regime in (
        Regime("c", "scarce seed data, used up by the initial SFT", 1000, 400_000, 133_000, 3000),
        Regime("b", "a competent start", 3000, 1_200_000, 167_000, 3500),
        Regime(
            "f",
            "a strong student, for which most new rows are redundant",
            12_000,
            3_000_000,
            167_000,
            3500,
            without=ALL_SEEN | OTHER_METHODS,
        ),
        Regime(
            "u",
            "scarce seed data, of which the initial SFT has seen two thirds",
            1500,
            400_000,
            133_000,
            3000,
            start_share=2 / 3,
            without=REPLACED | OTHER_METHODS,
        ),
        Regime(
            "d",
            "scarce seed data, 30 % of its answers wrong",
            1000,
            400_000,
            133_000,
            3000,
            seed_error_rate=0.3,
            without=(ALL_SEEN - REPLACED) | OTHER_METHODS,
        ),
        Regime(
            "e",
            "a teacher that is wrong 15 % of the time",
            1000,
            400_000,
            133_000,
            3000,
            teacher_error_rate=0.15,
            without=ALL_SEEN | OTHER_METHODS,
        ),
        Regime(
            "a",
            "a start that has not learnt its seed data yet, and few expansions",
            3100,
            370_000,
            133_000,
            800,
            {"mix.max_repeat": 3, "score.max_rows": 900},
            without=ALL_SEEN | OTHER_METHODS,
        ),
    )
}
