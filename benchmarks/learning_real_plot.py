"""The plot of the real half of the learning benchmark: change of the loss by task, and contrasts by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_real_data import SHARES
from benchmarks.learning_real_loss import loss_by_task


def draw(arms: Mapping[str, Mapping[int, dict[str, Any]]], rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Writes `file`, an SVG. `arms` have the trainings by seed, `rows` are the contrasts."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "tapir-ray"  # the same figures give the same file
    figure, (changes, differences) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    width = 0.8 / len(arms)
    for number, (arm, seeds) in enumerate(arms.items()):
        found = [
            [loss_by_task(line["after"])[task] - loss_by_task(line["before"])[task] for task in SHARES]
            for line in seeds.values()
        ]
        changes.bar(np.arange(len(SHARES)) + number * width, np.mean(found, axis=0), width, label=arm)
    changes.set_xticks(np.arange(len(SHARES)) + 0.4 - width / 2, list(SHARES))
    changes.set_ylabel("change of the loss, nats per token")
    changes.legend(fontsize=8)
    places = np.arange(len(rows))[::-1]
    for number, seed in enumerate(sorted({seed for row in rows for seed in row["seeds"]})):
        points = [(place, row["uniform"]["by_seed"].get(str(seed))) for place, row in zip(places, rows, strict=True)]
        shown = [(place + 0.12 - 0.24 * number, one) for place, one in points if one]
        if shown:
            means = np.array([one["mean"] for _, one in shown])
            bounds = np.array([[one["mean"] - one["low"], one["high"] - one["mean"]] for _, one in shown]).T
            differences.errorbar(
                means, [at for at, _ in shown], xerr=bounds.clip(0), fmt="o", capsize=3, label=f"seed {seed}"
            )
    differences.axvline(0.0, linewidth=0.8, color="grey")
    differences.set_yticks(places, [f"{row['what']}\n{row['contrast']}" for row in rows], fontsize=8)
    differences.set_xlabel("difference in loss, mean over tasks, 95 % interval over rows")
    if len(rows):
        differences.legend(fontsize=8)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
