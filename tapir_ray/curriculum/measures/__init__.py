"""Difficulty measures: how hard a row is for the current student, and the columns that a run must produce for it.

    @measure(answers=True)
    def answer_length(rows: pa.Table) -> pa.ChunkedArray:
        return pc.utf8_length(rows["student_response"])

A run produces only what its measure needs: with `answer_length` no judge is checked, asked or paid. Use a measure of
your own by `curriculum.difficulty.measure: package.module:answer_length` (docs/measures.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pyarrow as pa

from tapir_ray.config.curriculum import Difficulty
from tapir_ray.config.registry import MEASURES, resolve
from tapir_ray.data.schemas import SCORED
from tapir_ray.errors import InputError

Column: TypeAlias = Any
"""A pyarrow Array or ChunkedArray."""
Function: TypeAlias = Callable[[pa.Table], Column | pa.Table]

SAMPLES = pa.field("student_samples", pa.list_(pa.string()))
SAMPLE_SCORES = pa.field("sample_scores", pa.list_(pa.float64()))
"""Verifiers' scores of the samples, 1 to 10; null for a sample that no verifier grades."""
LOSSES = (pa.field("response_loss", pa.float64()), pa.field("response_loss_alone", pa.float64()))
"""Mean cross-entropy of a row's response in nats per token, given its conversation and without it."""


@dataclass(frozen=True)
class Measure:
    """Difficulty measure: called with a scored table, it returns one number a row; higher is harder.

    It may also return the table with `difficulty` and its own `columns` added. A row whose number is null is in neither
    pool.
    """

    function: Function
    judge: bool = False
    """Needs `teacher_score` and `student_score`, 1 to 10. Implies the student's answer."""
    answers: bool = False
    """Needs `student_response`: the student's answer by `student.sampling`, which is greedy by default."""
    samples: int = 0
    """Needs `student_samples`: this number of sampled student answers. A sample is null if its thoughts did not end.
    Holdout rows are in no plan and have no samples."""
    temperature: float = 1.0
    """Sampling temperature of `samples`."""
    losses: bool = False
    """Needs `response_loss` and `response_loss_alone`: the student's mean cross-entropy of the row's own response, in
    nats per token. Both are over the tokens that a training has in its loss: given the conversation, and after the
    tokenizer's BOS token alone (EOS if it has none).

    Nothing is truncated: a row of more than `student.max_model_len` tokens has nulls. So have rows whose response is
    missing or cannot be encoded, and those of the holdout, which are in no plan. A student behind an endpoint has no
    losses."""
    columns: Sequence[pa.Field] = ()
    """Columns that the function adds and the scored table keeps."""
    positive: bool = False
    """A student at 0 or below has nothing to learn from the row, so a plan never moves δ to 0 or below."""
    verified: bool = False
    """Needs `sample_scores`: the scores of `samples` by the verifiers of `judge.verifiers`. No judge is asked."""
    highest: float | None = None
    """Highest difficulty of an ok row, if there is one: a config with a higher δ is refused."""

    def __call__(self, rows: pa.Table) -> Column | pa.Table:
        return self.function(rows)

    @property
    def asks_student(self) -> bool:
        """True if the student has to answer."""
        return self.judge or self.answers or self.samples > 0

    @property
    def schema(self) -> pa.Schema:
        """Schema of the scored table."""
        sampled = [SAMPLES, *([SAMPLE_SCORES] if self.verified else [])] if self.samples else []
        needed = [*sampled, *(LOSSES if self.losses else [])]
        return pa.schema([*SCORED, *needed, *self.columns])


def measure(
    *,
    judge: bool = False,
    answers: bool = False,
    samples: int = 0,
    temperature: float = 1.0,
    losses: bool = False,
    columns: Sequence[pa.Field] = (),
    positive: bool = False,
    verified: bool = False,
    highest: float | None = None,
) -> Callable[[Function], Measure]:
    """Decorator that turns a function into a Measure; the arguments are the fields of Measure."""

    def made(function: Function) -> Measure:
        return Measure(function, judge, answers, samples, temperature, losses, columns, positive, verified, highest)

    return made


def load_measure(spec: str) -> Measure:
    """Returns the measure that `curriculum.difficulty.measure` names: one of MEASURES or `package.module:object`.

    A plain function counts as a measure that needs the judge. Raises InputError for a name that cannot be resolved.
    """
    found = resolve(spec, MEASURES, what="curriculum.difficulty.measure")
    return found if isinstance(found, Measure) else Measure(found, judge=True)


def configured_measure(difficulty: Difficulty) -> Measure:
    """Returns the measure of the section `curriculum.difficulty`, with its `samples` and `temperature`."""
    found = load_measure(difficulty.measure)
    if not found.samples:
        return found
    temperature = found.temperature if difficulty.temperature is None else difficulty.temperature
    return replace(found, samples=difficulty.samples or found.samples, temperature=temperature)


def scored_schema(spec: str) -> pa.Schema:
    """Returns the schema of a table scored by the measure `spec`.

    It is SCORED for a measure that cannot be imported: a machine that only shows or submits a run may lack its module.
    """
    try:
        return load_measure(spec).schema
    except InputError:
        return SCORED
