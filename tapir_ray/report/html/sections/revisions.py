"""Section: the teacher's annotations of the student's explanations, by round (`method: elad`)."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from tapir_ray.data.schemas import OK, text_of
from tapir_ray.report.html import charts
from tapir_ray.report.html.section import Block, Figure, Grid, Reading, Section
from tapir_ray.report.html.view import View
from tapir_ray.run.layout import EladRound

KEY, TITLE = "annotations", "Annotations"
GROUPS = {"faulty": "corrected", "right": "found right"}
"""Groups of the rows to read, by the teacher's verdict; null, for answers from nothing, has the first."""
COLUMNS = ("round", "annotations", "right", "faulty", "first faulty step", "uncertainty", "of the chosen",
           "tokens of the student", "of the teacher")  # fmt: skip
READ = ["instruction_id", "status", "task", "messages", "student_response", "response", "revision", "verdict",
        "first_faulty", "uncertainty"]  # fmt: skip


def section(view: View) -> Section:
    """Returns the numbers of the annotations and the uncertainty of the student by round."""
    says = (
        "How uncertain the student's explanations were, how many of the chosen ones the teacher found faulty, and at "
        "which step. Uncertainty that falls shows a student whose steps have become stable."
    )
    found = {number: made for number in view.rounds if (made := view.annotations(number))}
    if not found:
        return Section(KEY, TITLE, says, missing="No round is annotated yet.")
    blocks: list[Block] = [_numbers(found)]
    if any(made["uncertainty"] is not None for made in found.values()):
        blocks.insert(0, _uncertainty(found))
    return Section(KEY, TITLE, says, blocks)


def _uncertainty(found: dict[int, dict[str, Any]]) -> Figure:
    of = {"all candidates": "uncertainty", "the chosen": "uncertainty_chosen"}
    rows = [
        {"of": name, "round": number, "uncertainty": made[key]}
        for name, key in of.items()
        for number, made in found.items()
        if made[key] is not None
    ]
    spec = charts.lines(rows, "round", "uncertainty", "of", "Mean uncertainty by round", zero=True)
    says = "The mean of u_j over the steps plus the disagreement of whole explanations, from 0 to 2."
    return Figure("Uncertainty of the explanations", says, spec)


def _numbers(found: dict[int, dict[str, Any]]) -> Grid:
    lines = []
    for number, made in found.items():
        verdicts, teacher = made["verdicts"], made["teacher_input_tokens"] + made["teacher_output_tokens"]
        lines.append(
            [number, made["annotations"], verdicts.get("right", 0), verdicts.get("faulty", 0),
             *(made[name] for name in ("mean_first_faulty", "uncertainty", "uncertainty_chosen", "student_tokens")),
             teacher]
        )  # fmt: skip
    return Grid("Annotations of each round", COLUMNS, lines)


def readings(view: View, most: int) -> dict[str, list[Reading]]:
    """Returns up to `most` annotated explanations of the last round by the verdict, the most uncertain ones first."""
    assert view.loop is not None
    rounds = [one for one in view.loop.rounds if isinstance(one, EladRound) and view.run.done(one.annotated)]
    if not rounds:
        return {}
    found: dict[str, list[Reading]] = {group: [] for group in GROUPS.values()}
    for batch in view.scan(rounds[-1].annotated, READ):
        for row in batch.filter(pc.equal(batch["status"], OK)).to_pylist():
            group = GROUPS[row["verdict"] or "faulty"]
            found[group].append(_reading(group, row))
        for rows in found.values():
            rows.sort(key=lambda one: (-one.order, one.row_id))
            del rows[most:]
    return found


def _reading(group: str, row: dict[str, Any]) -> Reading:
    place = "" if row["first_faulty"] is None else f", first faulty step {row['first_faulty']}"
    unsure = "" if row["uncertainty"] is None else f"uncertainty {row['uncertainty']:.2f}"
    texts = [("question", text_of(row["messages"])), ("student", row["student_response"] or "(no text)")]
    texts += [("revision", row["revision"])] if row["revision"] else []
    label = f"{unsure}{place}".removeprefix(", ")
    return Reading(group, row["task"] or "", label, row["uncertainty"] or 0.0, [*texts, ("learnt", row["response"])],
                   row["instruction_id"])  # fmt: skip
