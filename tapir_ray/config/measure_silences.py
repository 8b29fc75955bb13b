"""Keys that a difficulty measure leaves without effect: those of the judge, of samples and of losses."""

from __future__ import annotations

from collections.abc import Callable

from tapir_ray.config.config import Config
from tapir_ray.config.models import Judge
from tapir_ray.config.registry import measure_declares
from tapir_ray.config.silence import Silence

MEASURE = "curriculum.difficulty.measure"
COMPARING = tuple(
    f"judge.{name}"
    for name in ("min_teacher_score", "mode", "both_orders", "repeat_share", "repeat_temperature", "verified_share")
)
"""Keys that only the comparison of the teacher's answer with the student's reads."""
VERIFIERS = ("judge.verifiers",)


def _needs_no(need: str, default: bool = False) -> Callable[[Config], bool]:
    return lambda config: not measure_declares(need, default, config.curriculum.difficulty.measure)


OF_MEASURES: tuple[Silence, ...] = (
    Silence(
        tuple(f"judge.{name}" for name in Judge.model_fields if f"judge.{name}" not in VERIFIERS),
        MEASURE,
        lambda config: config.regenerate is None and not config.judges,
        "with a curriculum.difficulty.measure that needs no judge, and without respond.samples above 1, "
        "respond.min_score or a suite that asks the judge: take it out",
    ),
    Silence(
        COMPARING,
        MEASURE,
        # A suite of the user may read any key of the judge.
        lambda config: config.regenerate is None and not (config.measure_needs_judge or config.suites_need_judge),
        "with a curriculum.difficulty.measure that needs no judge: no two answers are compared, and "
        "respond.samples and respond.min_score score each answer alone; take it out",
    ),
    Silence(
        VERIFIERS,
        MEASURE,
        lambda config: config.regenerate is None and not _verifies(config),
        "with a curriculum.difficulty.measure that needs neither the judge nor verified samples, and without "
        "respond.samples above 1, respond.min_score or a suite that asks the judge: take it out",
    ),
    Silence(
        ("judge.verified_share",),
        "judge.verifiers",
        lambda config: not config.judge.verifiers,
        "without judge.verifiers: name some, or take this out",
    ),
    Silence(
        tuple(f"curriculum.difficulty.{name}" for name in ("samples", "temperature")),
        MEASURE,
        _needs_no("samples"),
        "with a curriculum.difficulty.measure that needs no samples of the student: take it out",
    ),
    Silence(
        tuple(f"curriculum.difficulty.{name}" for name in ("model", "chat_template")),
        MEASURE,
        _needs_no("losses"),
        "with a curriculum.difficulty.measure that needs no losses: take it out",
    ),
    Silence(
        ("expand.prompt",),
        MEASURE,
        lambda config: config.expand.prompt == "feedback"
        and (_needs_no("asks_student", True)(config) or config.curriculum.difficulty.select == "none"),
        "with a curriculum.difficulty under which the student answers no row that is expanded: set a measure of "
        "answers and select hard or frontier, or expand.prompt like",
    ),
    Silence(
        ("curriculum.weights_by",),
        MEASURE,
        lambda config: config.curriculum.weights_by == "ddk" and not config.measure_needs_judge,
        "with a curriculum.difficulty.measure that needs no judge, whose scores move the weights: set another measure, "
        "or curriculum.weights_by fixed",
    ),
    Silence(
        ("curriculum.weights_by",),
        "curriculum.difficulty.select",
        lambda config: config.curriculum.weights_by == "ddk" and config.curriculum.difficulty.select == "none",
        "with curriculum.difficulty.select none, which scores the holdout alone: set hard or frontier, or "
        "curriculum.weights_by fixed",
    ),
    Silence(
        ("curriculum.ddk.share", "curriculum.ddk.strength"),
        "curriculum.weights_by",
        lambda config: config.curriculum.weights_by == "fixed",
        "with curriculum.weights_by fixed: set ddk, or take this out",
    ),
    Silence(
        ("curriculum.difficulty.chat_template",),
        "curriculum.difficulty.model",
        lambda config: config.curriculum.difficulty.model is None,
        "without curriculum.difficulty.model, as the student's template is student.chat_template: take it out",
    ),
)


def _verifies(config: Config) -> bool:
    """Whether verifiers score anything: compared answers, samples, or new answers."""
    return config.judges or config.measure_is_verified
