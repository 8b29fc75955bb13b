"""Outputs of a round of each method, and of the control next to it."""

from __future__ import annotations

from dataclasses import dataclass

from tapir_ray.run.table import Table


class AnyRound:
    """Outputs that a round of every method has. Each declares them again, in the order of their making."""

    candidates: Table
    scored: Table
    training: Table
    packed: Table
    checkpoint: Table
    plan: str
    """Path of the file with the round's plan and mix."""

    @property
    def written(self) -> Table:
        """The table with the teacher's new responses, of which the round trains on the ok rows."""
        raise NotImplementedError


@dataclass(frozen=True)
class Round(AnyRound):
    """Outputs of a round of TAPIR."""

    candidates: Table
    scored: Table
    expanded: Table
    bands: Table
    checked: Table
    contamination: Table
    generated: Table
    pool: Table
    training: Table
    packed: Table
    checkpoint: Table
    plan: str

    @property
    def written(self) -> Table:
        return self.generated


@dataclass(frozen=True)
class EladRound(AnyRound):
    """Outputs of a round of ELAD."""

    candidates: Table
    scored: Table
    explained: Table
    """The student's explanations, of all candidates or of those that are annotated."""
    continued: Table | None
    """Continuations of their prefixes; only of `elad.select: uncertain`."""
    selected: Table
    """The explanations with their steps and uncertainty; `chosen` ones are annotated."""
    annotated: Table
    """The teacher's verdicts and revisions."""
    training: Table
    packed: Table
    checkpoint: Table
    plan: str

    @property
    def written(self) -> Table:
        return self.annotated


@dataclass(frozen=True)
class ControlExpansions:
    """Outputs of a control's own new instructions, as those of a round."""

    expanded: Table
    bands: Table
    checked: Table
    contamination: Table
    generated: Table
    new: Table
    """Pairs of the generated rows with their tokens."""


@dataclass(frozen=True)
class ControlRound:
    """Outputs of the control next to a round: a second student, trained on as many tokens without the curriculum.

    `packed` and `evaluation` have the names of the student's outputs, so that the same config keys make them stale.
    """

    training: Table
    packed: Table
    checkpoint: Table
    evaluation: Table
    """The judge's scores of the holdout for the control."""
    expansions: ControlExpansions | None = None
    """Only of `control: random`."""
