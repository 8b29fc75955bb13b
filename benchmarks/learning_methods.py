"""Part of the learning page on the product's other methods: each against its base arm, with its costs, and by gain.

    costs(lines)                # {"dollars": 0.83, "estimated": False, "student_tokens": {"student_samples": 240000}}
    section(regime)             # the table of a regime
    which(regimes)              # all arms by their gain over A2, in each regime

All text is made from the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.learning_arms import ARMS, METHODS, REGIMES, SMALL, SMALL_TOKENS
from benchmarks.learning_ledger import ANSWER, EXPANSION, JUDGEMENT, PRICES, dollars, mean_usage, student_tokens
from tapir_ray.config.curriculum import Curriculum
from tapir_ray.curriculum.measures import load_measure

COMMON = "A2"
"""Arm that all gains are measured against: new rows with equal task shares, nothing selected, no judge."""
SAMPLED, DELTA = load_measure("unknown"), Curriculum().difficulty.threshold
SMALL_MODEL = f"{SMALL['layers']} layers, {SMALL['hidden_size']} wide"
SET_UP = f"""\
Losses are those of the training's forward pass. Of each row {SAMPLED.samples} samples are drawn from all tokens at
temperature {SAMPLED.temperature:g}; the product's own code compares them, without verifiers. The small model of
superfilter is a student of {SMALL_MODEL}, trained on the seed rows of the start for {SMALL_TOKENS:.0%} of its tokens.
The simulator plays the other expansion prompts by levels: it writes another problem of the same family, for evolve one
level harder if the operation is constraint, deepen or reasoning and of the same level if it is concretise or breadth,
for feedback one level easier or harder as asked. It does not keep the drawn problem's content, and does not read the
student's answer. A7 has the regime's sizes of rows, draws and batches, and the product's defaults in all else of the
method: published task weights, δ {DELTA:g}, expansions of hard rows alone, styled answers."""
STUDENT_WORK = {"student_answers": "answers", "student_samples": "samples", "student_losses": "losses"}


def costs(lines: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the mean dollars and student's tokens of an arm's trainings; `others` are all trainings of the regime.

    Trainings from before usage was recorded have calls alone. Their dollars are estimated from the mean tokens of a
    call in the other trainings with plain answers and expansions; None if that says nothing about their calls.
    """
    per_call = mean_usage([line for line in others if _plain(line["arm"])])
    found = [dollars_of(line, per_call) for line in lines]
    known = [value for value in found if value is not None]
    work = [student_tokens(line["usage"]) for line in lines if "usage" in line]
    return {
        "dollars": round(float(np.mean(known)), 3) if len(known) == len(found) else None,
        "estimated": any("usage" not in line and _calls(line) for line in lines),
        "student_tokens": {
            name: round(float(np.mean([one.get(name, 0) for one in work])))
            for name in STUDENT_WORK
            if any(name in one for one in work)
        },
    }


def dollars_of(line: Mapping[str, Any], per_call: Mapping[str, Mapping[str, float]]) -> float | None:
    """Returns the dollars of a training, from its usage or from its calls and the tokens of a call; None if unknown."""
    if "usage" in line or not _calls(line):
        return dollars(line.get("usage", {}))
    if not _plain(line["arm"]):
        return None
    answers = sum(entry["new_rows"] for entry in line["rounds"])
    calls = {EXPANSION: line["teacher_calls"] - answers, ANSWER: answers, JUDGEMENT: line["judge_calls"]}
    if any(n and kind not in per_call for kind, n in calls.items()):
        return None
    return dollars(
        {
            kind: {name: n * mean for name, mean in per_call[kind].items()}
            for kind, n in calls.items()
            if kind in per_call
        }
    )


def _calls(line: Mapping[str, Any]) -> int:
    return int(line["teacher_calls"] + line["judge_calls"])


def _plain(arm: str) -> bool:
    """Whether an arm has plain answers and expansions like the drawn row, and the teacher answers new rows alone."""
    changes = ARMS[arm].changes
    return changes.get("rewrite.tasks") == [] and "expand.prompt" not in changes and not ARMS[arm].answered_again


def section(regime: Mapping[str, Any]) -> str:
    """Returns the table of the other methods of a regime; empty if none was measured."""
    arms = regime["arms"]
    measured = [name for name in METHODS if name in arms]
    stopped = [f"{arm} stopped at random seed {seed}: {why}" for arm, seed, why in regime.get("stopped", ())]
    if not measured:
        return "\n\n".join(stopped)
    against = {row["contrast"]: row for row in regime["contrasts"]["score"]}
    lines = [
        "Other methods, each against its base arm:",
        "",
        "| arm | uniform, 95 % interval | seed's shares | difference to its base, 95 % interval | p, Holm | "
        "trained tokens | student's tokens | teacher calls | judge calls | $ |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    bases = [name for name in arms if name in {METHODS[method] for method in measured}]
    lines += [_row(name, arms[name], against.get(f"{name} − {METHODS.get(name)}")) for name in [*bases, *measured]]
    return "\n".join([*lines, "", *stopped]).strip()


def _row(name: str, entry: Mapping[str, Any], row: Mapping[str, Any] | None) -> str:
    """Returns an arm's row of the table; `row` is its contrast with its base arm."""
    difference = "– | –"
    if row is not None:
        difference = f"{row['mean']:+.2f} against {METHODS[name]} ({_interval(row)}) | {row['p_holm']:.3f}"
    work = ", ".join(f"{tokens:,} in {STUDENT_WORK[kind]}" for kind, tokens in entry["student_tokens"].items())
    low, high = entry["interval"]
    score = f"**{entry['score']:.2f}** ({low:.2f} to {high:.2f}) | {entry['seed_score']:.2f}"
    return (
        f"| {name} {ARMS[name].what} | {score} | {difference} | {entry['tokens']:,} | "
        f"{work or '–'} | {entry['teacher_calls']:,} | {entry['judge_calls']:,} | {_dollars(entry)} |"
    )


def which(regimes: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table of all arms by their gain over A2, for each regime; empty if no regime has A2 and another."""
    rows = []
    for name, regime in regimes.items():
        for row in sorted(regime.get("gains", ()), key=lambda row: -row["mean"]):
            arm, common = regime["arms"][row["arm"]], regime["arms"][COMMON]
            rows.append(
                f"| {name} | {row['arm']} {ARMS[row['arm']].what} | {row['seeds']} | {row['mean']:+.2f} | "
                f"{_interval(row)} | {verdict(row)} | {_more(arm, common)} |"
            )
    if not rows:
        return ""
    shown = "; ".join(f"{name}, {REGIMES[name].what}" for name, regime in regimes.items() if regime.get("gains"))
    most = max(len(regime.get("gains", ())) for regime in regimes.values())
    return "\n".join(
        [
            "## Which to take when",
            "",
            f"Gain over {COMMON} ({ARMS[COMMON].what}) on the uniform holdout, by regime ({shown}).",
            "Intervals of 95 % are of the mean difference at the same random seeds, and not corrected: the best of",
            f"{most} arms is the best in part by luck. An arm is better or worse if its interval leaves out 0.",
            "",
            f"| regime | arm | seeds | gain | 95 % interval | the interval says | $ more than {COMMON} |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            price_note(),
            "",
            SET_UP,
        ]
    )


def verdict(row: Mapping[str, float]) -> str:
    """Returns `better`, `worse` or `not told apart`, by an interval's ends."""
    return "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "not told apart"


def price_note() -> str:
    """Returns the sentences on how dollars are counted."""
    prices = ", ".join(f"{role} ${price.input:g} and ${price.output:g}" for role, price in PRICES.items())
    return f"""\
Dollars are list prices of a million input and output tokens ({prices}, those of gpt-4.1)
for the calls of the three rounds. Problems and answers have their length in the simulator, counted by the student's
tokenizer; words of prompts and of the judge's replies count a token for every four bytes. Real rows and judgements are
longer, so the dollars compare arms and forecast no run; the student's own work is not in them. ≈: estimated from the
calls and the mean tokens of a call in other arms, as the training is from before tokens were counted. –: not known."""


def _interval(row: Mapping[str, float]) -> str:
    return f"{row['low']:+.2f} to {row['high']:+.2f}"


def _dollars(entry: Mapping[str, Any]) -> str:
    if entry["dollars"] is None:
        return "–"
    return f"{'≈ ' if entry['estimated'] else ''}{entry['dollars']:.2f}"


def _more(arm: Mapping[str, Any], common: Mapping[str, Any]) -> str:
    if arm["dollars"] is None or common["dollars"] is None:
        return "–"
    about = "≈ " if arm["estimated"] or common["estimated"] else ""
    return f"{about}{arm['dollars'] - common['dollars']:+.2f}"
