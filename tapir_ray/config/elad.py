"""Settings of the method ELAD (arXiv 2402.13098), for `method: elad`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tapir_ray.config.curriculum import Curriculum
from tapir_ray.config.models import Endpoint, Student
from tapir_ray.config.section import Count, Section, key

STEP_PATTERN = r"\n+|(?<=[.!?])\s+"


class Elad(Section):
    """Annotations of the student's own explanations by the teacher, for `method: elad`."""

    annotations: Count = 1000
    """Questions per round that the teacher annotates. `curriculum.rounds` limits the number of rounds."""
    max_annotations: Count | None = None
    """Annotations of all rounds together; `null`: `annotations` in each round."""
    max_tokens: Count | None = None
    """Teacher tokens, input and output, of all annotations. The run ends before a round that would begin above it."""
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """The same in US dollars, by `teacher.price`. Unlike `budget.max_cost` it leaves the evaluation its money."""
    select: Literal["uncertain", "random", "mfd"] = key("uncertain", invalidates=("scored", "pool_answers"))
    """Questions that are annotated: the most uncertain ones by their steps (EGSS), random ones, or those of the highest
    `curriculum.difficulty.measure`, for which the teacher answers the whole pool and the judge scores it."""
    quota: Literal["tasks", "none"] = "tasks"
    """`tasks`: the annotations are shared out over the tasks by their weights, and chosen within each. `none`: they are
    chosen among all questions, which may leave a task without any."""
    samples: Annotated[int, Field(ge=2)] = 5
    """k: sampled whole explanations of a question, and sampled continuations of each prefix of its steps."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature of these explanations and continuations."""
    max_prefixes: Count = 8
    """Most prefixes of an explanation that are continued; of more steps, those at equal distances."""
    step_pattern: str = STEP_PATTERN
    """Regular expression of the text between two steps. The default splits lines and sentences."""
    revise: Literal["revise", "rewrite"] = key("revise", invalidates=("annotated",))
    """`revise`: the teacher corrects the student's own steps from the first faulty one (CLEAR). `rewrite`: it answers
    the question in the style of its task, without seeing the student's steps."""
    attempts: Count = key(2, invalidates=("annotated",))
    """Requests for a revision until its reply can be read; then the row fails."""

    def refuse(self, student: Student, teacher: Endpoint, curriculum: Curriculum, control: str) -> None:
        """Raises ValueError, naming the keys, for settings of other sections that the method cannot run with."""
        if self.select == "uncertain" and not student.spec.local:
            raise ValueError(
                "elad.select uncertain continues the student's own steps, which no chat endpoint does: set "
                "student.engine vllm, or elad.select random or mfd"
            )
        if curriculum.difficulty.measure != "mfd":
            raise ValueError(
                f"method elad measures its students by the judge, not by {curriculum.difficulty.measure}: set "
                "curriculum.difficulty.measure mfd"
            )
        if control != "none":
            raise ValueError(
                f"control {control} trains a second student next to the rounds of tapir, and method elad has none: set "
                "control none, and compare with a run of elad.select random"
            )
        if self.max_cost is not None and teacher.known_price is None:
            raise ValueError(
                f"elad.max_cost needs teacher.price: {teacher.model} is not in the price list (genai-prices) of its "
                "provider; set the price, or use elad.max_tokens"
            )

    @field_validator("step_pattern")
    @classmethod
    def _splits(cls, pattern: str) -> str:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"step_pattern is not a regular expression: {error}") from error
        if compiled.match("") is not None:
            raise ValueError("step_pattern matches the empty text, which is between all letters: write what separates")
        return pattern

    @model_validator(mode="after")
    def _budget_holds_a_round(self) -> Elad:
        if self.max_annotations is not None and self.max_annotations < self.annotations:
            raise ValueError(
                f"max_annotations {self.max_annotations} is below annotations {self.annotations}, those of one round: "
                "lower annotations"
            )
        return self
