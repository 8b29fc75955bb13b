"""Section: rows to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.data.schemas import HOLDOUT, OK, text_of
from tapir_ray.report.html.best_rows import highest
from tapir_ray.report.html.judge_words import Judged, judge_words
from tapir_ray.report.html.section import Notes, Reading, Readings, Section
from tapir_ray.report.html.sections import revisions
from tapir_ray.report.html.view import View
from tapir_ray.run.layout import SHARDS, ShardLayout, Table

HARDEST, IMPROVED, WORSE = "hardest", "most improved", "got worse"
NEW, OLD = "new answer preferred", "old answer kept"
MOST_ROWS, PER_REASON, MOST_REASONS = 30, 5, 12
MOST_CHARS = 2_000
"""Characters of a text that the page has."""
SCORED = ["instruction_id", "split", "task", "status", "reason", "messages", "response", "student_response",
          "teacher_score", "student_score", "difficulty", "scored_by"]  # fmt: skip


def section(view: View, most_bytes: int) -> Section:
    """Returns the rows to read, in at most `most_bytes` of HTML."""
    title = "Rows to read"
    says = (
        "The hardest rows, those whose answers improved most or got worse, and filtered ones by reason: question, "
        "answers, scores and the judge's words. Read some before you trust a mean."
    )
    notes: list[str] = []
    found: dict[str, list[Reading]] = {}
    if view.loop is not None:
        annotated = revisions.readings(view, MOST_ROWS)
        found |= {group: [replace(one, texts=_cut(one.texts)) for one in rows] for group, rows in annotated.items()}
        found |= _scored(view, notes)
    else:
        found |= _regenerated(view)
    found |= _filtered(view)
    found = {group: rows for group, rows in found.items() if rows}
    if not found:
        return Section("rows", title, says, missing="No row is scored or filtered yet.")
    kept, left = within(found, most_bytes)
    return Section("rows", title, says, [Readings(kept, left), *([Notes(notes)] if notes else [])])


def _scored(view: View, notes: list[str]) -> dict[str, list[Reading]]:
    """Returns the hardest rows, and the holdout rows that moved most between the first and the last student."""
    assert view.loop is not None
    chosen: dict[str, list[tuple[dict[str, Any], dict[str, Any] | None]]] = {}
    scored = [n for n in view.rounds if view.run.done(view.loop.any_round(n).scored)]
    if scored:
        table = view.loop.any_round(scored[-1]).scored
        chosen[HARDEST] = [(row, None) for row in highest(view, table, SCORED, "difficulty", MOST_ROWS)]
    if len(view.scored_rounds) > 1:
        first, last = view.scored_rounds[0], view.scored_rounds[-1]
        before, after = (_holdout_scores(view, view.loop.judged_holdout(n)) for n in (first, last))
        steps = {row_id: after[row_id] - before[row_id] for row_id in before.keys() & after.keys()}
        order = sorted(steps, key=lambda row_id: (-steps[row_id], row_id))
        up = [row_id for row_id in order[:MOST_ROWS] if steps[row_id] > 0]
        down = [row_id for row_id in order[::-1][:MOST_ROWS] if steps[row_id] < 0]
        rows = [rows_of(view, view.loop.judged_holdout(n), {*up, *down}) for n in (first, last)]
        for group, ids in ((IMPROVED, up), (WORSE, down)):
            chosen[group] = [(rows[1][row_id], rows[0][row_id]) for row_id in ids]
    words = judge_words(view, [row for pairs in chosen.values() for row, _ in pairs], notes)
    return {
        group: [_reading(group, row, before, words.get(row["instruction_id"], ())) for row, before in pairs]
        for group, pairs in chosen.items()
    }


def _reading(group: str, row: dict[str, Any], before: dict[str, Any] | None, words: Judged) -> Reading:
    if before is None:
        texts = answers_of(row, [("student", row)], words)
        label, order = f"difficulty {row['difficulty']:.3g}", row["difficulty"]
    else:
        texts = answers_of(row, [("student before", before), ("student after", row)], words)
        label = f"{before['student_score']:.3g} → {row['student_score']:.3g}"
        order = abs(row["student_score"] - before["student_score"])
    return Reading(group, row["task"] or "", label, order, texts, row["instruction_id"])


def answers_of(
    row: dict[str, Any], students: Sequence[tuple[str, dict[str, Any]]], words: Judged = ()
) -> list[tuple[str, str]]:
    """Returns the texts of a row: question, the teacher's answer, that of each student, and the judge's words."""
    texts = [("question", text_of(row["messages"])), (_named("teacher", row["teacher_score"]), row["response"])]
    texts += [(_named(who, one["student_score"]), one["student_response"]) for who, one in students]
    return _cut([*texts, *words])


def _regenerated(view: View) -> dict[str, list[Reading]]:
    """Returns the rows of a regeneration whose two answers the judge scored most differently, by the answer it kept."""
    layout = view.layout
    assert isinstance(layout, ShardLayout)
    columns = ["instruction_id", "status", "task", "messages", "response", "other_response", "new_score", "old_score",
               "preferred"]  # fmt: skip
    best: dict[str, list[tuple[float, dict[str, Any]]]] = {NEW: [], OLD: []}
    for shard in view.run.children(SHARDS):
        for batch in view.scan(layout.regenerated.of(f"{SHARDS}/{shard}"), columns):
            scored = pc.and_(pc.is_valid(batch["new_score"]), pc.is_valid(batch["old_score"]))
            for row in batch.filter(pc.and_(scored, pc.equal(batch["status"], OK))).to_pylist():
                group = OLD if row["preferred"] == "old" else NEW
                best[group].append((abs(row["new_score"] - row["old_score"]), row))
            for rows in best.values():
                rows.sort(key=lambda pair: (-pair[0], pair[1]["instruction_id"]))
                del rows[MOST_ROWS:]
    found = {}
    for group, rows in best.items():
        kept, other = ("old_score", "new_score") if group == OLD else ("new_score", "old_score")
        found[group] = [
            Reading(
                group, row["task"] or "", f"{row['old_score']:.3g} → {row['new_score']:.3g}", step,
                _cut([("question", text_of(row["messages"])), (_named("kept answer", row[kept]), row["response"]),
                      (_named("other answer", row[other]), row["other_response"])]),
                row["instruction_id"],
            )
            for step, row in rows
        ]  # fmt: skip
    return found


def _named(who: str, score: float | None) -> str:
    return who if score is None else f"{who} · {score:.3g}"


def _filtered(view: View) -> dict[str, list[Reading]]:
    """Returns up to PER_REASON rows of each reason of the last round's new rows and of the seed data."""
    if isinstance(view.layout, ShardLayout):
        shards = view.run.children(SHARDS)
        tables = [view.layout.ingested, *(view.layout.regenerated.of(f"{SHARDS}/{name}") for name in shards)]
    else:
        assert view.loop is not None
        tables = [one.written for one in reversed(view.loop.rounds)] + [view.layout.ingested]
    found: dict[str, list[Reading]] = defaultdict(list)
    for table in tables:
        made = view.run.done(table)
        if made is None or not (made.reasons or made.errors) or not _wants(found, made.reasons, made.errors):
            continue
        for batch in view.scan(table, ["instruction_id", "status", "reason", "task", "messages", "response"]):
            for row in batch.filter(_not_ok(batch)).to_pylist():
                reason = (row["reason"] or row["status"]).partition(":")[0]
                group = f"{row['status']}: {reason}"
                if (len(found) >= MOST_REASONS and group not in found) or len(found[group]) >= PER_REASON:
                    continue
                texts = [("question", text_of(row["messages"] or [])), ("answer", row["response"] or ""),
                         ("reason", row["reason"] or "")]  # fmt: skip
                found[group].append(
                    Reading(group, row["task"] or "", f"{table}", float(PER_REASON - len(found[group])), _cut(texts),
                            row["instruction_id"] or "")
                )  # fmt: skip
    return dict(found)


def _wants(found: dict[str, list[Reading]], reasons: dict[str, int], errors: dict[str, int]) -> bool:
    groups = {*(f"filtered: {reason}" for reason in reasons), *(f"failed: {reason}" for reason in errors)}
    return any(len(found.get(group, ())) < PER_REASON for group in groups)


def _not_ok(batch: pa.Table) -> pa.ChunkedArray:
    return pc.not_equal(batch["status"], OK)


def _holdout_scores(view: View, table: Table) -> dict[str, float]:
    found = {}
    for batch in view.scan(table, ["instruction_id", "split", "status", "student_score", "student_response"]):
        for row in batch.to_pylist():
            if (row["split"], row["status"]) == (HOLDOUT, OK) and None not in row.values():
                found[row["instruction_id"]] = row["student_score"]
    return found


def rows_of(view: View, table: Table, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Returns rows of a table of scores by id."""
    ids, found = pa.array(sorted(wanted), pa.string()), {}
    for batch in view.scan(table, SCORED):
        for row in batch.filter(pc.is_in(batch["instruction_id"], ids)).to_pylist():
            found[row["instruction_id"]] = row
    return found


def _cut(texts: Sequence[tuple[str, str | None]]) -> list[tuple[str, str]]:
    cut = []
    for name, text in texts:
        if text:
            more = f" … ({len(text):,} characters)" if len(text) > MOST_CHARS else ""
            cut.append((name, f"{text[:MOST_CHARS]}{more}"))
        elif name != "reason":
            cut.append((name, "(no text)"))
    return cut


def within(found: dict[str, list[Reading]], most_bytes: int) -> tuple[list[Reading], dict[str, int]]:
    """Returns rows of all groups in turn while they fit, in the order of the groups; and the rest by group."""
    left_out: dict[str, int] = defaultdict(int)
    kept: dict[str, list[Reading]] = defaultdict(list)
    used = 0
    for place in range(max(map(len, found.values()))):
        for group, rows in found.items():
            if place >= len(rows):
                continue
            size = 600 + sum(len(escape(text).encode()) + 80 for _, text in rows[place].texts)
            if used + size > most_bytes:
                left_out[group] += 1
            else:
                kept[group].append(rows[place])
                used += size
    return [row for group in found for row in kept[group]], dict(left_out)
