"""Difficulty measures: how hard a row is for the current student, and what a run makes of the row to find out.

    @measure(answers=True)
    def answer_length(rows: pa.Table) -> pa.ChunkedArray:
        return pc.utf8_length(rows["student_response"])

A run makes what its measure needs, and no more: with `answer_length` no judge is asked, checked or paid. Name a measure
of your own as `curriculum.difficulty.measure: package.module:answer_length` (docs/measures.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from tapir_ray.config.registry import MEASURES, resolve
from tapir_ray.data.schemas import SCORED
from tapir_ray.errors import InputError

Column: TypeAlias = Any
"""A pyarrow Array or ChunkedArray."""
Function: TypeAlias = Callable[[pa.Table], Column | pa.Table]

SAMPLES = pa.field("student_samples", pa.list_(pa.string()))


@dataclass(frozen=True)
class Measure:
    """A difficulty measure. Called with the rows of a scored table, it returns a number for each; higher is harder.

    It may also return the table with `difficulty` and its own `columns` filled, which the table does not have before. A
    row without a number (null) is in neither pool.
    """

    function: Function
    judge: bool = False
    """Needs `teacher_score` and `student_score`, 1 to 10, and so the student's answer as well."""
    answers: bool = False
    """Needs `student_response`: the student's answer by `student.sampling`, which is greedy by default."""
    samples: int = 0
    """Needs `student_samples`: so many sampled answers of the student, null where its thoughts did not end. Rows of the
    holdout, which are in no plan, have none."""
    temperature: float = 1.0
    """Of `samples`."""
    columns: Sequence[pa.Field] = ()
    """Columns that the function adds and the scored table keeps."""
    positive: bool = False
    """At 0 or below the student lacks nothing: a plan that moves δ keeps it above 0."""

    def __call__(self, rows: pa.Table) -> Column | pa.Table:
        return self.function(rows)

    @property
    def asks_student(self) -> bool:
        """Whether the student answers at all."""
        return self.judge or self.answers or self.samples > 0

    @property
    def schema(self) -> pa.Schema:
        """Schema of the scored table."""
        return pa.schema([*SCORED, *([SAMPLES] if self.samples else []), *self.columns])


def measure(
    *,
    judge: bool = False,
    answers: bool = False,
    samples: int = 0,
    temperature: float = 1.0,
    columns: Sequence[pa.Field] = (),
    positive: bool = False,
) -> Callable[[Function], Measure]:
    """Decorator that makes a Measure of a function; the arguments are the fields of Measure."""

    def made(function: Function) -> Measure:
        return Measure(function, judge, answers, samples, temperature, columns, positive)

    return made


def load_measure(spec: str) -> Measure:
    """The measure that `curriculum.difficulty.measure` names: one of MEASURES or `package.module:object`.

    A plain function of a table is a measure that needs the judge. Raises InputError for a name that is neither.
    """
    found = resolve(spec, MEASURES, what="curriculum.difficulty.measure")
    return found if isinstance(found, Measure) else Measure(found, judge=True)


def scored_schema(spec: str) -> pa.Schema:
    """Schema of a table that the measure `spec` has scored.

    SCORED for a measure that cannot be imported: a machine that only shows or submits a run may lack its module.
    """
    try:
        return load_measure(spec).schema
    except InputError:
        return SCORED
