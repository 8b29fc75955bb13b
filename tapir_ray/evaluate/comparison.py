"""Two students of a suite on the same items: means, the paired difference, wins and losses, the items that moved most.

found = compared(run, after, other_run, before, random_seed=0)
found["gain"]["mean"], found["wins"]
for line in in_lines(found, "last", "initial"): print(line)
"""

from __future__ import annotations

from dataclasses import asdict
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.data.values import one_line
from tapir_ray.evaluate.paired import Gain, in_words, paired_gain, rows_in_words
from tapir_ray.evaluate.results import Results, read_results
from tapir_ray.run.layout import Table
from tapir_ray.run.run import Run

MOVED = 5
"""Items that are shown with the largest gains, and as many with the largest losses."""
SHOWN_CHARS = 90
SAME = 1e-9
"""Scores that differ by less are a tie."""


def compared(
    run: Run,
    table: Table,
    other_run: Run,
    other_table: Table,
    random_seed: int = 0,
    moved: int = MOVED,
    split: str | None = None,
) -> dict[str, Any] | None:
    """Returns how one student's results differ from another's, as JSON values; None without a common item.

    With a `split` only its rows are items (`Suite.split`).

    - `mean`, `other_mean`: over the items that both have a score for.
    - `gain`: fields of `paired.Gain`; `without_contaminated` is that of the items that neither was trained on, None
      unless there are others.
    - `wins`, `losses`, `ties`: numbers of items.
    - `moved`: the items with the largest gains and losses, each with its text and both scores.
    - `missing`, `other_missing`: items that only the other student has a score for, by reason; `not an item` is the
      reason of an item that one of the tables does not have.
    """
    mine, theirs = read_results(run, table, split), read_results(other_run, other_table, split)
    common = sorted(mine.scores.keys() & theirs.scores.keys())
    if not common:
        return None
    steps = {row_id: mine.scores[row_id] - theirs.scores[row_id] for row_id in common}
    order = sorted(common, key=lambda row_id: (-steps[row_id], row_id))
    most = [row_id for row_id in order[:moved] if steps[row_id] > SAME]
    most += [row_id for row_id in order[-moved:] if steps[row_id] < -SAME]
    texts = _texts(run, table, set(most))
    return {
        "mean": round(fmean(mine.scores[row_id] for row_id in common), 4),
        "other_mean": round(fmean(theirs.scores[row_id] for row_id in common), 4),
        "gain": asdict(paired_gain(theirs.scores, mine.scores, random_seed)),
        "without_contaminated": _clean_gain(mine, theirs, common, random_seed),
        "wins": sum(step > SAME for step in steps.values()),
        "losses": sum(step < -SAME for step in steps.values()),
        "ties": sum(abs(step) <= SAME for step in steps.values()),
        "moved": [
            {
                "instruction_id": row_id,
                "text": texts.get(row_id, ""),
                "score": mine.scores[row_id],
                "other_score": theirs.scores[row_id],
            }
            for row_id in most
        ],
        "missing": _lacking(mine, theirs),
        "other_missing": _lacking(theirs, mine),
    }


def _clean_gain(mine: Results, theirs: Results, common: list[str], random_seed: int) -> dict[str, Any] | None:
    dirty = (mine.contaminated or set()) | (theirs.contaminated or set())
    clean = [row_id for row_id in common if row_id not in dirty]
    if not clean or len(clean) == len(common):
        return None
    before, after = ({row_id: of.scores[row_id] for row_id in clean} for of in (theirs, mine))
    return asdict(paired_gain(before, after, random_seed))


def _lacking(one: Results, other: Results) -> dict[str, int]:
    """Counts the items that only the `other` has a score for, by the reason why the `one` has none."""
    lacking = other.scores.keys() - one.scores.keys()
    absent = len(lacking - one.missing.keys())
    return {**one.reasons(lacking), **({"not an item": absent} if absent else {})}


def _texts(run: Run, table: Table, wanted: set[str]) -> dict[str, str]:
    """Returns the first user turn of some items, on one line and cut to SHOWN_CHARS."""
    found, ids = {}, pa.array(sorted(wanted), pa.string())
    for batch in run.scan(table, ["instruction_id", "messages"]) if wanted else ():
        for row in batch.filter(pc.is_in(batch["instruction_id"], ids)).to_pylist():
            asked = next((turn["content"] for turn in row["messages"] or () if turn["role"] == "user"), "")
            line = one_line(asked)
            found[row["instruction_id"]] = line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 1]}…"
    return found


def in_lines(found: dict[str, Any] | None, name: str, other: str) -> list[str]:
    """Returns a comparison in lines: the difference, wins and losses, missing items, and the items that moved most."""
    if found is None:
        return [f"{name} and {other} have no scored item in common"]
    gain = Gain(**found["gain"])
    says = {1: "better", -1: "worse", 0: "no difference is shown"}[gain.sign]
    lines = [
        f"{name} {found['mean']:.3f}, {other} {found['other_mean']:.3f}: {in_words(gain, digits=3)} "
        f"({rows_in_words(gain)}): {says}; {found['wins']} wins, {found['losses']} losses, {found['ties']} ties"
    ]
    if (clean := found["without_contaminated"]) is not None:
        left = Gain(**clean)
        lines.append(f"without the items that they were trained on: {in_words(left, digits=3)} ({left.rows} rows)")
    for who, missing in ((name, found["missing"]), (other, found["other_missing"])):
        if missing:
            reasons = ", ".join(f"{count} items ({why})" for why, count in missing.items())
            lines.append(f"{who} has no score for {reasons}")
    for item in found["moved"]:
        lines.append(f"  {item['other_score']:.3g} → {item['score']:.3g}  {item['text']}")
    return lines
