"""Rounds of a run in the summary that is printed at its end: a table, and lines on what it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

COLUMNS = (
    "round", "α", "δ", "hard", "easy", "generated", "filtered", "failed", "tokens", "score", "loss", "seconds"
)  # fmt: skip
OF_ELAD = (
    "round", "annotations", "right", "faulty", "first faulty", "uncertainty", "chosen", "filtered", "failed", "tokens",
    "score", "loss", "seconds",
)  # fmt: skip


def rounds_table(summary: dict[str, Any]) -> Table:
    """Returns a row for the untrained student, the initial SFT and each round."""
    of_elad = any(entry["elad"] for entry in summary["rounds"])
    columns = OF_ELAD if of_elad else COLUMNS
    table = Table(title=f"{summary['name']}: rounds")
    for column in columns:
        table.add_column(column, justify="left" if column in ("filtered", "seconds") else "right", overflow="fold")
    start, sft = summary["start"], summary["initial_sft"]
    for name, entry, tokens in (("start", start, ""), ("SFT", sft, sft and f"{sft['training_tokens']:,}")):
        if entry:
            score = in_decimals(entry["student_score"] and entry["student_score"]["mean"])
            loss = in_decimals(entry["holdout_loss"])
            table.add_row(name, *[""] * (len(columns) - 5), tokens, score, loss, _pairs(entry["seconds"]))
    for entry in summary["rounds"]:
        table.add_row(
            str(entry["round"]),
            *(_annotations(entry["elad"] or {}) if of_elad else _curriculum(entry)),
            _pairs(entry["filtered"]),
            str(entry["failed"]),
            f"{entry['training_tokens']:,}",
            " → ".join(in_decimals(entry[f"student_score_{when}"]["mean"]) for when in ("before", "after")),
            in_decimals(entry["holdout_loss"]),
            _pairs(entry["seconds"]),
        )
    return table


def _curriculum(entry: dict[str, Any]) -> list[str]:
    alpha = _moved(entry["alpha_asked"], entry["alpha"])
    return [alpha, _ends(entry), _count(entry["hard"]), _count(entry["easy"]), _count(entry["generated"])]


def _annotations(made: dict[str, Any]) -> list[str]:
    verdicts = made.get("verdicts", {})
    counts = [_count(made.get("annotations")), *(_count(verdicts.get(name)) for name in ("right", "faulty"))]
    return [
        *counts,
        *(in_decimals(made.get(name)) for name in ("mean_first_faulty", "uncertainty", "uncertainty_chosen")),
    ]


def lines_of_rounds(summary: dict[str, Any]) -> Iterator[str]:
    """Yields how the rows of a round were chosen, if not by the defaults, and the noise of its scores."""
    for entry in summary["rounds"]:
        if said := _choices(entry):
            yield f"round {entry['round']}: {said}"
        if (made := entry["elad"]) is not None:
            teacher = made["teacher_input_tokens"] + made["teacher_output_tokens"]
            tokens = f"{made['student_tokens']:,} tokens of the student, {teacher:,} of the teacher"
            yield f"round {entry['round']}: {tokens} for its annotations"
        elif entry["scored"]:
            noise = "not measured" if entry["noise"] is None else f"{entry['noise']:.2f}"
            yield f"round {entry['round']}: σ of a single MFD {noise}"


def in_decimals(value: float | None) -> str:
    """Returns a number with two decimals; `-` for None."""
    return "-" if value is None else f"{value:.2f}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _moved(asked: float | None, done: float | None) -> str:
    if asked is None or done is None:
        return "-"
    return f"{asked:g}" if asked == done else f"{asked:g} → {done:g}"


def _ends(entry: dict[str, Any]) -> str:
    """Returns δ, or the interval of hard difficulties, before and after a move: `2 → 1.5`, `2..5 → 1..6`."""
    if entry["ceiling"] is None:
        return _moved(entry["threshold_asked"], entry["threshold"])
    asked, done = ((entry[f"threshold{which}"], entry[f"ceiling{which}"]) for which in ("_asked", ""))
    return " → ".join(f"{low:g}..{high:g}" for low, high in dict.fromkeys((asked, done)))


def _choices(entry: dict[str, Any]) -> str:
    """Returns how rows were selected, drawn and mixed, if not all by the defaults; the seen rows among candidates."""
    said = [f"curriculum.difficulty.select {entry['select']}"] if entry["select"] not in (None, "hard") else []
    if entry["seen"] is not None:
        said.append(f"{entry['seen']} seen and {entry['unseen']} unseen candidates")
    if set(entry["draws"]) - {"hard"}:
        said.append(f"draws from {_pairs(entry['draws'])}")
    if entry["probes"]:
        said.append(f"{entry['probes']} probes")
    if entry["unscored"]:
        said.append(f"{entry['unscored']:,} unscored units in the mix")
    return ", ".join(said)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
