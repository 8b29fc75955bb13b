"""Rules by which `method` leaves keys without effect."""

from __future__ import annotations

from tapir_ray.config.config import Config
from tapir_ray.config.elad import Elad
from tapir_ray.config.method import Expand, Mix
from tapir_ray.config.silence import Silence


def _is_elad(config: Config) -> bool:
    return config.work == "elad"


OF_ELAD: tuple[Silence, ...] = (
    Silence(
        tuple(f"elad.{name}" for name in Elad.model_fields),
        "method",
        lambda config: not _is_elad(config),
        "without method elad: set it, or take this out",
    ),
    Silence(
        (
            # The prompt has rules for the keys that it reads.
            *(f"expand.{name}" for name in Expand.model_fields if name not in ("operations", "easier_share")),
            *(f"mix.{name}" for name in Mix.model_fields),
            *(f"curriculum.{name}" for name in ("alpha", "alpha_step", "weights_by")),
            *(
                f"curriculum.difficulty.{name}"
                for name in ("select", "threshold", "top_fraction", "on_small_pool", "min_hard_share")
            ),
        ),
        "method",
        _is_elad,
        "with method elad, which writes no new instructions and has no pools of hard and easy rows: take it out",
    ),
    Silence(
        ("elad.samples", "elad.temperature", "elad.max_prefixes"),
        "elad.select",
        lambda config: _is_elad(config) and config.elad.select != "uncertain",
        "without elad.select uncertain, under which alone steps are continued: take it out",
    ),
    Silence(
        ("elad.step_pattern", "elad.attempts"),
        "elad.revise",
        lambda config: _is_elad(config) and config.elad.revise == "rewrite" and config.elad.select != "uncertain",
        "with elad.revise rewrite, under which the teacher is shown no steps: take it out",
    ),
    Silence(
        ("curriculum.stop_rounds",),
        "curriculum.stop_when",
        lambda config: config.curriculum.stop_when == "never",
        "with curriculum.stop_when never: set it to no_gain, or take this out",
    ),
    Silence(
        ("simulator.revision_error_rate",),
        "method",
        lambda config: not _is_elad(config) or config.elad.revise != "revise",
        "without method elad and elad.revise revise: take it out",
    ),
    Silence(
        ("method",),
        "regenerate",
        lambda config: config.method != "tapir" and config.regenerate is not None,
        "with the section regenerate, which trains no student: take one of them out",
    ),
)
