"""Section: length and repetition of the student's answers, by round."""

from __future__ import annotations

from collections import Counter
from statistics import fmean, median
from typing import Any

from tapir_ray.data.schemas import HOLDOUT, OK
from tapir_ray.report.html import charts
from tapir_ray.report.html.section import Figure, Grid, Section
from tapir_ray.report.html.view import View
from tapir_ray.run.layout import Table

MOST_ANSWERS = 5_000
N_GRAM = 3
FEWEST_WORDS = 8
"""Words of an answer from which repetition is counted."""


def section(view: View) -> Section:
    """Returns the lengths of answers and the shares of repeated ones."""
    title, says = "Answers", (
        "Length and repetition of the student's answers to the holdout, by round. Answers that get all alike, or "
        "repeat themselves, show a student that collapses."
    )  # fmt: skip
    if view.loop is None:
        return Section("answers", title, says, missing="A regeneration has no student.")
    measured = {}
    for number in view.scored_rounds:
        if (found := measure(view, view.loop.judged_holdout(number))) is not None:
            measured[number] = found
    if not measured:
        return Section("answers", title, says, missing="The student has not answered the holdout yet.")
    lengths, shares = [], []
    for number, one in measured.items():
        lengths.append({"answers of": "student", "round": number, "median characters": one["length"]})
        lengths.append({"answers of": "teacher", "round": number, "median characters": one["teacher_length"]})
        for name in ("same as another answer", "repeated 3-grams", "cut off", "empty"):
            shares.append({"share": name, "round": number, "of the answers": round(one[name], 4)})
    lengths.sort(key=lambda row: row["answers of"])
    shares.sort(key=lambda row: ("same as another answer", "repeated 3-grams", "cut off", "empty").index(row["share"]))
    columns = ("round", "answers", "median length", "teacher's", "same as another", "repeated 3-grams", "cut off",
               "empty")  # fmt: skip
    lines = [
        [number, one["answers"], one["length"], one["teacher_length"],
         *(f"{one[name]:.1%}" for name in ("same as another answer", "repeated 3-grams", "cut off", "empty"))]
        for number, one in measured.items()
    ]  # fmt: skip
    grid = Grid("Answers to the holdout", columns, lines)
    return Section(
        "answers",
        title,
        says,
        [
            Figure(
                "Length",
                "Median length in characters, next to that of the teacher's answers to the same rows.",
                charts.lines(lengths, "round", "median characters", "answers of", "Length of answers by round",
                             zero=True, dashed=["teacher"]),
            ),
            Figure(
                "Repetition",
                "Shares of the answers that are the same text as another answer, cut off or empty, and the mean share "
                f"of {N_GRAM}-word sequences that an answer repeats (answers of {FEWEST_WORDS} words and more).",
                charts.lines(shares, "round", "of the answers", "share", "Repetition of answers by round", zero=True,
                             form="%"),
                grid,
            ),
        ],
    )  # fmt: skip


def measure(view: View, table: Table) -> dict[str, Any] | None:
    """Returns lengths and shares of the answers to the holdout in a table of scores; None without an answer."""
    answers: list[str] = []
    ends: Counter[str] = Counter()
    teacher = []
    columns = ["split", "status", "student_response", "finish_reason", "response"]
    for batch in view.scan(table, columns):
        for row in batch.to_pylist():
            if row["split"] != HOLDOUT or row["student_response"] is None or len(answers) >= MOST_ANSWERS:
                continue
            answers.append(row["student_response"])
            ends[row["finish_reason"] or ""] += 1
            if row["status"] == OK and row["response"] is not None:
                teacher.append(len(row["response"]))
    if not answers:
        return None
    alike = Counter(answer.strip() for answer in answers)
    counted = [share for answer in answers if (share := repetition(answer)) is not None]
    return {
        "answers": len(answers),
        "length": median(len(answer) for answer in answers),
        "teacher_length": median(teacher) if teacher else 0,
        "same as another answer": sum(count for count in alike.values() if count > 1) / len(answers),
        "repeated 3-grams": fmean(counted) if counted else 0.0,
        "cut off": ends["length"] / len(answers),
        "empty": alike[""] / len(answers),
    }


def repetition(answer: str) -> float | None:
    """Returns the share of an answer's 3-grams that occurred before in it; None for a short answer.

    repetition("a b c a b c a b c")  # 4 of 7 repeat one before: 0.571
    """
    words = answer.lower().split()
    if len(words) < FEWEST_WORDS:
        return None
    grams = [tuple(words[at : at + N_GRAM]) for at in range(len(words) - N_GRAM + 1)]
    return 1 - len(set(grams)) / len(grams)
