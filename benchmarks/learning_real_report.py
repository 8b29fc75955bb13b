"""The page of the real half of the learning benchmark: losses by task, contrasts, and what was trained."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_real_data import SHARES, UNIFORM
from benchmarks.learning_real_loss import Difference, difference, loss_by_task, mean_of
from benchmarks.learning_real_plot import draw
from benchmarks.learning_real_trial import ARMS, CONTRASTS
from tapir_ray.config import Train

ROOT = Path(__file__).parents[1]
PAGE, PLOT = ROOT / "docs" / "learning_real.md", ROOT / "docs" / "learning" / "real.svg"
RESULT = ROOT / "benchmarks" / "results" / "learning_real.json"
REPORTED = range(100)
"""Random seeds that are reported; others are for choosing settings."""
MEANS = {"uniform": UNIFORM, "seed": SHARES}
"""Weights of the tasks in the two means."""

HEAD = """# Does the curriculum teach a real model?

Written by `python benchmarks/learning_real.py report` from `benchmarks/results/learning_real.jsonl`;
`python benchmarks/learning_real.py run` makes the trainings again. [learning.md](learning.md) has the half with
simulated tasks.

The student is SmolLM2-135M-Instruct (from 4-bit weights, `benchmarks/smollm2.py`), all weights trained in float32. The
tasks are five files of instruction data: Alpaca, Dolly, Math (GSM8K), Code (CodeAlpaca) and Roleplay. Each random seed
splits their rows into a holdout of {held_each} rows a task, {seed_rows:,} seed rows (Alpaca 50 %, Dolly 20 %, the
others 10 % each), and a pool of all others. Rows with an instruction like one of the holdout are left out.

The pool is a recorded teacher: its rows stand in for new instructions with their answers. No teacher writes, and no
judge scores.

| arm | each of the three rounds trains on |
|---|---|
| A0 | the seed rows again |
| A1 | new pool rows, with the seed data's task shares of the response tokens |
| A2 | new pool rows, with equal task shares of the response tokens |
| A7 | as A2, with a share α of the response tokens from hard rows |

A7 is the product's default with a loss in place of the judge. In every round the current student's mean loss per
response token (`response_loss`) is measured on about twice as many pool rows as are trained, none of them trained
before. The harder half is hard (`top_fraction: 0.5`), as a loss has no δ like the 2 points of the MFD. α is 0.3, 0.5
and 0.7. In two points it is not a run: the candidates are new pool rows instead of seed rows and earlier expansions,
and no hard row is expanded, so that the difficulty of a trained row is measured and not that of its parent. A1 and A2
draw from as many candidates without measuring them (`select: none`).

All arms of a seed begin at the same model and train as many packed sequences and optimizer steps, with a schedule a
round: {tokens:,} tokens in all, learning rate {learning_rate:g}{untuned}. The score is the loss per
response token on the holdout: lower is better.
"""


def report(lines: Sequence[dict[str, Any]], setting: Mapping[str, Any]) -> None:
    """Writes results, page and plot. `lines` are the trainings of the setting, which may be incomplete."""
    arms: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        if line["seed"] in REPORTED:
            arms[line["arm"]][line["seed"]] = line
    arms = {name: dict(sorted(arms[name].items())) for name in ARMS if name in arms}
    found = {
        "benchmark": "learning_real",
        "date": datetime.now(UTC).date().isoformat(),
        "setting": dict(setting),
        "arms": {name: figures(list(seeds.values())) for name, seeds in arms.items()},
        "contrasts": contrasts(arms),
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(arms, found))
    if arms:
        draw(arms, found["contrasts"], PLOT)


def figures(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of an arm, means over its seeds."""
    rounds = [entry for line in lines for entry in line["rounds"]]
    rows: Counter[str] = Counter()
    for entry in rounds:
        rows.update(entry["by_task"])
    count = len(lines)
    return {
        "seeds": [line["seed"] for line in lines],
        "before": {name: _mean(lines, "before", weights) for name, weights in MEANS.items()},
        "after": {name: _mean(lines, "after", weights) for name, weights in MEANS.items()},
        "by_seed": {str(line["seed"]): round(mean_of(line["after"], UNIFORM), 4) for line in lines},
        "before_by_task": _tasks(lines, "before"),
        "after_by_task": _tasks(lines, "after"),
        **{
            name: round(sum(entry[name] for entry in rounds) / count)
            for name in ("steps", "tokens", "response_tokens", "pairs")
        },
        "distinct": round(sum(line["distinct"] for line in lines) / count),
        "rows_by_task": {task: round(rows[task] / count) for task in SHARES},
        "scored_tokens": round(sum(line["scored_tokens"] for line in lines) / count),
        "cpu_seconds": {
            name: round(sum(line["cpu_seconds"].get(name, 0.0) for line in lines) / count)
            for name in ("train", "select")
        },
    }


def _mean(lines: Sequence[dict[str, Any]], when: str, weights: Mapping[str, float]) -> float:
    return round(float(np.mean([mean_of(line[when], weights) for line in lines])), 4)


def _tasks(lines: Sequence[dict[str, Any]], when: str) -> dict[str, float]:
    found = [loss_by_task(line[when]) for line in lines]
    return {task: round(float(np.mean([one[task] for one in found])), 4) for task in SHARES}


def contrasts(arms: Mapping[str, Mapping[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the contrasts of the arms that share a seed: for each mean, by seed and over the seeds."""
    found = []
    for one, other, what in CONTRASTS:
        seeds = sorted(arms.get(one, {}).keys() & arms.get(other, {}).keys())
        if not seeds:
            continue
        pairs = {seed: (arms[one][seed]["after"], arms[other][seed]["after"]) for seed in seeds}
        found.append(
            {
                "contrast": f"{one} − {other}",
                "what": what,
                "seeds": seeds,
                **{
                    name: {
                        "mean": _rounded(difference(list(pairs.values()), weights)),
                        "by_seed": {str(seed): _rounded(difference([pairs[seed]], weights)) for seed in seeds},
                    }
                    for name, weights in MEANS.items()
                },
                "by_task": {
                    task: round(
                        float(np.mean([loss_by_task(a)[task] - loss_by_task(b)[task] for a, b in pairs.values()])), 4
                    )
                    for task in SHARES
                },
            }
        )
    return found


def _rounded(found: Difference) -> dict[str, float]:
    return {name: round(value, 4) for name, value in vars(found).items()}


def page(arms: Mapping[str, Mapping[int, dict[str, Any]]], found: Mapping[str, Any]) -> str:
    """Returns the text of the page."""
    setting = found["setting"]
    untuned = " (the product's default, not tuned)" if setting["learning_rate"] == Train().learning_rate else ""
    parts = [HEAD.format(**setting, untuned=untuned).strip(), *_missing(arms)]
    if arms:
        parts += ["## Loss on the holdout", _losses(arms)]
    if found["contrasts"]:
        parts += ["## Contrasts", CONTRASTS_SAY, *(_contrasts(found["contrasts"], name) for name in MEANS)]
    if arms:
        parts += ["![Changes of the loss and contrasts](learning/real.svg)"]
        parts += ["## What was trained", _trained(found["arms"])]
    return "\n\n".join(parts) + "\n"


CONTRASTS_SAY = """A difference below 0 says that the first arm is better. Intervals in brackets are 95 % bootstrap
intervals over the holdout rows: they cover another holdout, not another training. Two seeds are too few for the spread
between trainings. The tokens are too few to use the seed data up, and no training came before. So A0 trains on rows
that are as new to the student as those of A1, and A1 − A0 is no test of new data: it shows how far two samples of one
kind are apart by chance."""


def _missing(arms: Mapping[str, Mapping[int, Any]]) -> list[str]:
    seeds = sorted({seed for trained in arms.values() for seed in trained} | {0, 1})
    missing = [f"{arm} of seed {seed}" for seed in seeds for arm in ARMS if seed not in arms.get(arm, {})]
    return ["**Not complete.** Trainings that are missing:\n" + ", ".join(missing) + "."] if missing else []


def _losses(arms: Mapping[str, Mapping[int, dict[str, Any]]]) -> str:
    lines = [f"| seed | arm | mean over tasks | in the seed data's shares | {' | '.join(SHARES)} |"]
    lines.append("|---" * (4 + len(SHARES)) + "|")
    # By seed: seeds have other holdouts, so arms can be compared only within one.
    for seed in sorted({seed for trained in arms.values() for seed in trained}):
        there = {name: trained[seed] for name, trained in arms.items() if seed in trained}
        rows = [("before training", next(iter(there.values()))["before"])]
        for name, losses in rows + [(f"{name} {ARMS[name].what}", line["after"]) for name, line in there.items()]:
            tasks = " | ".join(f"{loss:.3f}" for loss in loss_by_task(losses).values())
            means = f"**{mean_of(losses, UNIFORM):.4f}** | {mean_of(losses, SHARES):.4f}"
            lines.append(f"| {seed} | {name} | {means} | {tasks} |")
    return "\n".join(lines)


def _contrasts(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    shares = "Mean over tasks:" if name == "uniform" else "In the seed data's shares:"
    lines = [shares, "", f"| contrast | mean over seeds | {' | '.join(f'seed {seed}' for seed in seeds)} |"]
    lines.append("|---" * (2 + len(seeds)) + "|")
    for row in rows:
        each = [row[name]["by_seed"].get(str(seed)) for seed in seeds]
        shown = " | ".join(str(Difference(**one)) if one else "" for one in each)
        lines.append(f"| {row['what']} ({row['contrast']}) | {Difference(**row[name]['mean'])} | {shown} |")
    return "\n".join(lines)


def _trained(arms: Mapping[str, Any]) -> str:
    lines = [
        "Means over the seeds. Passes for the difficulty are not among the trained tokens.",
        "",
        f"| arm | steps | tokens | of responses | rows (distinct) | {' | '.join(SHARES)} | tokens of the "
        "difficulty | CPU seconds: training, difficulty |",
        "|---" * (7 + len(SHARES)) + "|",
    ]
    for name, entry in arms.items():
        tasks = " | ".join(str(entry["rows_by_task"][task]) for task in SHARES)
        lines.append(
            f"| {name} | {entry['steps']} | {entry['tokens']:,} | {entry['response_tokens']:,} | {entry['pairs']} "
            f"({entry['distinct']}) | {tasks} | {entry['scored_tokens']:,} | {entry['cpu_seconds']['train']}, "
            f"{entry['cpu_seconds']['select']} |"
        )
    return "\n".join(lines)
