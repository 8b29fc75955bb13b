"""Settings of the curriculum: difficulty, pools, α, and the weights of the tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tapir_ray.config.registry import measure_declares
from tapir_ray.config.section import Count, Section, Share, key


class Difficulty(Section):
    """Difficulty of a row for the current student, and the threshold of hard rows."""

    measure: str = key("mfd", invalidates=("scored", "evaluation"))
    """A registered measure or `package:object` (docs/measures.md). For a measure that needs no judge, the student's
    answers are not judged."""
    select: Literal["hard", "frontier", "none"] = key("hard", invalidates=("scored",))
    """Rows that are selected, the pool `hard`: the hardest ones, those nearest to the middle (min + max) / 2 of the
    round's reliable difficulties, or (`none`) all usable rows, without scoring any but the holdout."""
    samples: Count | None = key(None, invalidates=("scored",))
    """Sampled student answers of each row, for a measure of samples; `null`: as many as the measure declares."""
    temperature: Annotated[float, Field(gt=0)] | None = key(None, invalidates=("scored",))
    """Sampling temperature of `samples`; `null`: as the measure declares."""
    model: str | None = key(None, invalidates=("scored",))
    """Hugging Face name or folder of the model whose losses a measure of losses gets, instead of the student's."""
    chat_template: str | None = key(None, invalidates=("scored",))
    """Chat template of `model`: a name or a file, as `student.chat_template`; `null`: its tokenizer's own."""
    threshold: float = 2.0
    """δ: hard if difficulty ≥ δ, in units of the measure."""
    top_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Instead of δ: the hardest rows, this share of the reliable ones, are hard. With `select: frontier` the share
    nearest to the middle; `null` is then 0.5."""
    on_small_pool: Literal["move_threshold", "move_alpha", "stop"] = "move_threshold"
    """What the plan changes if a pool cannot fill its share: δ (or the interval of `frontier`), α, or nothing (`stop`:
    exit 1)."""
    min_hard_share: Share = 0.05
    """A hard pool below this share of the reliable rows is too small to expand from."""

    def refuse(self) -> None:
        """Raises ValueError if no difficulty of the measure can reach δ, or if it lacks its model."""
        highest = measure_declares("highest", None, self.measure)
        if highest is not None and self.select == "hard" and self.top_fraction is None and self.threshold > highest:
            raise ValueError(
                f"curriculum.difficulty.threshold {self.threshold:g} is above {highest:g}, the highest difficulty of "
                f"the measure {self.measure}: set curriculum.difficulty.top_fraction, such as 0.3, or lower δ"
            )
        if self.measure == "superfilter" and self.model is None:
            raise ValueError(
                "curriculum.difficulty.measure superfilter needs curriculum.difficulty.model, a small language model; "
                "for the losses of the student set the measure ifd"
            )


class Ddk(Section):
    """Update of the task weights by `curriculum.weights_by: ddk` (docs/method.md)."""

    share: Share = 0.5
    """a: share of the updated weights; the rest is that of the weights of `tasks`."""
    strength: Annotated[float, Field(ge=0)] = 2.0
    """s: a task's weight is multiplied by exp(s · gap / 9)."""


class Curriculum(Section):
    """Plan over rounds: α_{r+1} = min(1, α_r + Δα). Defaults: 0.3, 0.5, 0.7."""

    tasks: str = key("tapir", invalidates=("labels", "instructions"))
    """`tapir` (published weights), `seed` (the seed data's own shares), or a YAML file with a taxonomy."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = key(default_factory=dict, invalidates=("candidates",))
    """Replaces the weights of `tasks`; a task that is not named gets 0. Must sum to 1."""
    weights_by: Literal["fixed", "ddk"] = "fixed"
    """`ddk`: each round raises the weights of tasks in which the judge finds the student far behind the teacher."""
    ddk: Ddk = Ddk()
    toxicity: bool = key(False, invalidates=("labels", "instructions", "candidates"))
    rounds: Annotated[int, Field(ge=0)] = key(3, invalidates=("last_evaluation", "scheduled"))
    stop_when: Literal["never", "no_gain"] = key("never", invalidates=("last_evaluation",))
    """`no_gain`: the run ends after a round whose student is not shown to be better on the holdout than the one before:
    the 95 % interval of the gain contains 0 or is below."""
    stop_rounds: Count | None = key(None, invalidates=("last_evaluation",))
    """Rounds in a row without a gain after which `no_gain` ends the run; `null` is 1, or 2 with `method: elad`."""
    alpha: Share = 0.3
    alpha_step: Share = 0.2
    difficulty: Difficulty = Difficulty()

    @field_validator("weights")
    @classmethod
    def _sum_to_one(cls, weights: dict[str, float]) -> dict[str, float]:
        if weights and abs(sum(weights.values()) - 1.0) > 1e-3:
            raise ValueError(f"the weights sum to {sum(weights.values()):.4f}, but must sum to 1")
        return weights
