"""Statistics of a round's scores as counts: small, exact, mergeable in any order, and stored in the run's state.

    stats = score_stats(scored_rows, min_teacher_score=4.0)     # one streaming pass over a Ray Dataset
    stats.noise, stats.by_task["Math"].histogram                # σ of the MFD; {2.5: 17, …}

Sums are integers (scores in thousandths): float sums would depend on the order of the rows.
"""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from pydantic import Field

from tapir_ray.curriculum.counts import MILLI, Counts, Moments, added
from tapir_ray.curriculum.difficulty import UNRELIABLE, pool_of, rounded
from tapir_ray.data.schemas import FAILED, JUDGE, OK


class TaskStats(Counts):
    """Statistics of the scored rows of one task."""

    histogram: dict[float, int] = Field(default_factory=dict)
    """Reliable rows by difficulty, rounded to 0.01."""
    unreliable: int = 0
    judged: int = 0
    """Rows with both scores. The sums below are over these rows."""
    teacher_milli: int = 0
    student_milli: int = 0

    @property
    def reliable(self) -> int:
        """Rows that can be hard or easy."""
        return sum(self.histogram.values())

    @property
    def teacher_score(self) -> float | None:
        """Mean score of the teacher's answers, 1..10."""
        return self.teacher_milli / MILLI / self.judged if self.judged else None

    @property
    def student_score(self) -> float | None:
        """Mean score of the student's answers, 1..10."""
        return self.student_milli / MILLI / self.judged if self.judged else None


class ScoreStats(Counts):
    """Statistics of a round. rows = reliable + unreliable (both summed over tasks) + failed + filtered + unscored."""

    rows: int = 0
    failed: int = 0
    filtered: int = 0
    unscored: int = 0
    """Rows of status ok without a difficulty or a task, such as all rows under `curriculum.difficulty.select: none`."""
    unscored_by_task: dict[str, int] = Field(default_factory=dict)
    """Those of them with a task."""
    trained: int = 0
    """Rows of status ok that were trained on before, scored or not."""
    tokens: int = 0
    """Sum of the column `tokens`; 0 without such a column."""
    by_task: dict[str, TaskStats] = Field(default_factory=dict)
    repeats: Moments = Moments()
    """Rows judged twice; x = MFD of the first judging − MFD of the second, in thousandths."""
    repeats_same: int = 0
    """Rows judged twice with the same replies, word for word."""
    seen: Moments = Moments()
    """Rows that were trained on before; x = difficulty in thousandths."""
    unseen: Moments = Moments()
    """All other rows; x = difficulty in thousandths."""
    verified: int = 0
    """Rows that a verifier scored (`judge.verifiers`)."""
    compared: int = 0
    """Those of them that the judge scored as well."""
    agreed: int = 0
    """Those of the compared rows whose better answer is the same by both (`same_verdict`)."""
    gaps: int = 0
    """Rows with a position gap."""
    gap_milli: int = 0
    """Sum of the absolute position gaps, in thousandths."""
    teacher_length: Moments = Moments()
    student_length: Moments = Moments()
    """Answers of the teacher and of the student; x = length in characters, y = score in thousandths."""

    @property
    def unreliable(self) -> int:
        """Rows in neither pool because the teacher's answer scored below `judge.min_teacher_score`."""
        return sum(task.unreliable for task in self.by_task.values())

    @property
    def reliable(self) -> int:
        """Rows that can be hard or easy."""
        return sum(task.reliable for task in self.by_task.values())

    @property
    def usable(self) -> dict[str, int]:
        """Rows that may be drawn from, by task: reliable and unscored ones."""
        reliable = {name: task.reliable for name, task in self.by_task.items() if task.reliable}
        found: dict[str, int] = added(reliable, self.unscored_by_task)
        return found

    @property
    def untrained(self) -> int:
        """Rows of status ok that were not trained on before."""
        return self.rows - self.failed - self.filtered - self.trained

    @property
    def histogram(self) -> dict[float, int]:
        """Reliable rows of all tasks by difficulty, in rising order."""
        total: dict[float, int] = {}
        for task in self.by_task.values():
            total = added(total, task.histogram)
        return dict(sorted(total.items()))

    @property
    def mean_difficulty(self) -> float | None:
        """Mean difficulty of the reliable rows; None if there are none."""
        return sum(value * n for value, n in self.histogram.items()) / self.reliable if self.reliable else None

    @property
    def noise(self) -> float | None:
        """σ of a single MFD, whatever the difficulty measure, in points of the judge's scale.

        It is sd(teacher_score − student_score − repeat_mfd)/√2 over rows judged twice.

        None if it was not measured: with fewer than 2 such rows, or if every second reply repeated the first, as a
        deterministic endpoint does. If the second judging had a higher temperature, it is an upper bound.
        """
        n = self.repeats.n
        if n < 2 or self.repeats_same == n:
            return None
        # Two judgings of one row differ by √2·σ, hence the division by 2.
        variance = (self.repeats.xx - self.repeats.x**2 / n) / (n - 1)
        return math.sqrt(max(0.0, variance) / 2) / MILLI

    @property
    def position_gap(self) -> float | None:
        """Mean absolute difference between the MFDs of the two orders of judging; None if only one was asked."""
        return self.gap_milli / MILLI / self.gaps if self.gaps else None

    @property
    def verifier_agreement(self) -> float | None:
        """Share of the compared rows on which verifier and judge agree; None if there are none."""
        return self.agreed / self.compared if self.compared else None

    @property
    def length_correlation(self) -> float | None:
        """Stronger of two correlations of score and length: among the teacher's answers, and among the student's."""
        found = [r for r in (self.teacher_length.correlation, self.student_length.correlation) if r is not None]
        return max(found, key=abs, default=None)

    def pools(self, delta: float, ceiling: float | None = None) -> dict[str, tuple[int, int]]:
        """Returns the number of (hard, easy) rows of every task; difficulties from δ to the ceiling are hard."""
        top = math.inf if ceiling is None else ceiling
        return {
            name: (hard := sum(n for value, n in task.histogram.items() if delta <= value <= top), task.reliable - hard)
            for name, task in sorted(self.by_task.items())
        }


def score_stats(rows: ray.data.Dataset, min_teacher_score: float, transform_cpus: float = 0.1) -> ScoreStats:
    """Returns the statistics of scored rows (schema SCORED with `difficulty`).

    One streaming pass; the driver receives one set of sums a block.
    """
    wanted = [name for name in NEEDED + OPTIONAL if name in (rows.columns() or [])]
    partial = rows.select_columns(wanted).map_batches(
        functools.partial(_partial, min_teacher_score=min_teacher_score),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=transform_cpus,
    )
    total = ScoreStats()
    for row in partial.iter_rows():
        total = total.merged(ScoreStats.model_validate_json(row["stats"]))
    return total


NEEDED = ["task", "status", "difficulty", "teacher_score", "student_score"]
OPTIONAL = [
    "position_gap",
    "repeat_mfd",
    "repeat_same",
    "scored_by",
    "judged_mfd",
    "response_chars",
    "student_response_chars",
    "times_trained",
    "tokens",
]


def table_stats(rows: pa.Table, min_teacher_score: float) -> ScoreStats:
    """Returns the statistics of a table; the columns in OPTIONAL may be missing."""
    status = pc.value_counts(rows["status"])
    counts = {entry["values"].as_py(): entry["counts"].as_py() for entry in status}
    ok = rows.filter(pc.equal(rows["status"], OK))
    scored = ok.filter(pc.and_(pc.is_valid(ok["difficulty"]), pc.is_valid(ok["task"])))
    unscored = ok["task"].filter(pc.and_(pc.is_null(ok["difficulty"]), pc.is_valid(ok["task"])))
    trained = pc.greater(pc.fill_null(ok["times_trained"], 0), 0) if _has(rows, "times_trained") else None
    # δ is decided later from these counts. Here 0.0 serves only to separate the unreliable rows.
    pools = pool_of(scored["difficulty"], scored["teacher_score"], 0.0, min_teacher_score)
    histograms: dict[str, Counter[float]] = defaultdict(Counter)
    unreliable: Counter[str] = Counter()
    keyed = scored.select(["task"]).append_column("value", rounded(scored["difficulty"])).append_column("pool", pools)
    for entry in keyed.group_by(["task", "pool", "value"]).aggregate([([], "count_all")]).to_pylist():
        if entry["pool"] == UNRELIABLE:
            unreliable[entry["task"]] += entry["count_all"]
        else:
            histograms[entry["task"]][entry["value"]] += entry["count_all"]
    by_task = {
        task: TaskStats(histogram=dict(sorted(histograms[task].items())), unreliable=unreliable[task])
        for task in {*histograms, *unreliable}
    }
    judged = scored.filter(pc.and_(pc.is_valid(scored["teacher_score"]), pc.is_valid(scored["student_score"])))
    sums = (
        judged.select(["task"])
        .append_column("teacher", _milli(judged["teacher_score"]))
        .append_column("student", _milli(judged["student_score"]))
    )
    grouped = sums.group_by("task").aggregate([("teacher", "sum"), ("student", "sum"), ([], "count_all")])
    for entry in grouped.to_pylist():
        by_task[entry["task"]] = by_task[entry["task"]].merged(
            TaskStats(judged=entry["count_all"], teacher_milli=entry["teacher_sum"], student_milli=entry["student_sum"])
        )
    # Not `difficulty`, which another measure may have written.
    mfd = pc.subtract(scored["teacher_score"], scored["student_score"])
    repeat = _pairs(pc.subtract(mfd, scored["repeat_mfd"])) if _has(rows, "repeat_mfd") else Moments()
    same = pc.and_(scored["repeat_same"], pc.is_valid(scored["repeat_mfd"])) if _has(rows, "repeat_same") else None
    seen = pc.greater(pc.fill_null(scored["times_trained"], 0), 0) if _has(rows, "times_trained") else None
    gaps = pc.drop_null(pc.abs(scored["position_gap"])) if _has(rows, "position_gap") else pa.array([], pa.float64())
    judged_mfd = scored["judged_mfd"] if _has(rows, "judged_mfd") else pa.nulls(len(scored), pa.float64())
    both = pc.drop_null(same_verdict(mfd, judged_mfd))
    by_verifier = pc.not_equal(scored["scored_by"], JUDGE) if _has(rows, "scored_by") else None
    n_failed, n_filtered = counts.get(FAILED, 0), len(rows) - counts.get(FAILED, 0) - counts.get(OK, 0)
    return ScoreStats(
        rows=len(rows),
        failed=n_failed,
        filtered=n_filtered,
        unscored=counts.get(OK, 0) - len(scored),
        unscored_by_task=dict(sorted(Counter(unscored.to_pylist()).items())),
        trained=0 if trained is None else pc.sum(trained).as_py() or 0,
        tokens=(pc.sum(rows["tokens"]).as_py() or 0) if _has(rows, "tokens") else 0,
        by_task=dict(sorted(by_task.items())),
        repeats=repeat,
        repeats_same=0 if same is None else pc.sum(same).as_py() or 0,
        verified=0 if by_verifier is None else pc.sum(by_verifier).as_py() or 0,
        compared=len(both),
        agreed=pc.sum(both).as_py() or 0,
        gaps=len(gaps),
        gap_milli=pc.sum(_milli(gaps)).as_py() or 0,
        seen=Moments() if seen is None else _pairs(scored["difficulty"].filter(seen)),
        unseen=_pairs(scored["difficulty"] if seen is None else scored["difficulty"].filter(pc.invert(seen))),
        teacher_length=_length(scored, "response_chars", "teacher_score"),
        student_length=_length(scored, "student_response_chars", "student_score"),
    )


def same_verdict(mfd: Any, other: Any) -> Any:
    """Returns whether two MFDs call the same answer better; below 1 point neither is. Null if one of them is."""

    def better(values: Any) -> Any:
        return pc.if_else(pc.less(pc.abs(values), 1.0), 0.0, pc.sign(values))

    return pc.equal(better(mfd), better(other))


def _partial(rows: pa.Table, min_teacher_score: float) -> pa.Table:
    return pa.table({"stats": [table_stats(rows, min_teacher_score).model_dump_json()]})


def _has(rows: pa.Table, column: str) -> bool:
    return column in rows.column_names


def _milli(values: Any) -> Any:
    return pc.cast(pc.round(pc.multiply(values, MILLI)), pa.int64())


def _pairs(values: Any) -> Moments:
    x = _milli(pc.drop_null(values))
    return Moments(n=len(x), x=pc.sum(x).as_py() or 0, xx=pc.sum(pc.multiply(x, x)).as_py() or 0)


def _length(rows: pa.Table, chars: str, score: str) -> Moments:
    if not _has(rows, chars):
        return Moments()
    both = rows.filter(pc.and_(pc.is_valid(rows[chars]), pc.is_valid(rows[score])))
    x, y = both[chars].cast(pa.int64()), _milli(both[score])
    sums = {"x": x, "y": y, "xx": pc.multiply(x, x), "yy": pc.multiply(y, y), "xy": pc.multiply(x, y)}
    return Moments(n=len(both), **{name: pc.sum(values).as_py() or 0 for name, values in sums.items()})
