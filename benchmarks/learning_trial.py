"""A starting student, and one training of an arm: its config, its rounds, its scores on two holdouts.

The measure `superfilter` needs a small model: a smaller created student with the same tokenizer (`make_small`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.learning_arms import SMALL, SMALL_TOKENS, Arm, Regime
from benchmarks.learning_ledger import PRICES
from benchmarks.learning_loop import Student, holdout, row_of, score_of
from benchmarks.learning_rounds import Rounds
from tapir_ray.config import Config, load
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.curriculum.tasks import load as load_taxonomy
from tapir_ray.data.schemas import INSTRUCTIONS, SEED, conform, in_share, pair_id
from tapir_ray.simulator.options import Options
from tapir_ray.simulator.seed import cell_counts, seed_rows
from tapir_ray.simulator.tasks import Tasks
from tapir_ray.train.create_student import create_student
from tapir_ray.train.loop import learning_rate_at

CONFIG = Path(__file__).with_name("learning.yaml")
UNIFORM_ROWS, SEED_SHARED_ROWS = 500, 400
LIKE_NO_HOLDOUT = 1000
"""Added to the random seed of a training for its holdouts, so that they share no problem with its seed rows."""


def config_of(regime: Regime, changes: dict[str, Any], seed: int) -> Config:
    """Returns the base config with the changes of a regime and an arm."""
    base = {
        "mix.max_repeat": 1,
        "mix.size": None,
        "score.max_rows": 1000,
        "expand.size": regime.expand,
        "train.global_batch_size": 4,
        "train.initial_share": regime.start_share,
    }
    changed = {**base, **regime.changes, **changes, "random_seed": seed}
    return load(CONFIG, [f"{key}={json.dumps(value)}" for key, value in changed.items()])


def seed_data(regime: Regime, config: Config, seed: int) -> list[dict[str, Any]]:
    """Returns the seed rows of a training, without those of its holdouts."""
    held = forbidden(holdouts(seed))
    written = seed_rows(regime.seed_rows, seed, regime.seed_error_rate)
    rows = [row_of(str(row["instruction"]), str(row["output"])) for row in written]
    return list({row["instruction_id"]: row for row in rows if row["instruction_id"] not in held}.values())


def of_start(regime: Regime, config: Config, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the seed rows that the initial SFT of a regime trains on."""
    names, share = [row["instruction_id"] for row in rows], regime.start_share
    kept = [share == 1.0 or in_share(name, config.random_seed, share, "initial_sft") for name in names]
    return [row for row, keep in zip(rows, kept, strict=True) if keep]


def make_start(regime: Regime, seed: int, folder: Path) -> dict[str, Any]:
    """Trains the initial SFT of a regime and a random seed into `folder`; nothing if it is there."""
    if (folder / "done.json").exists():
        return json.loads((folder / "done.json").read_text())
    config = config_of(regime, {}, seed)
    rows = seed_data(regime, config, seed)
    student, result = _created(regime, config, rows, folder / "base", regime.start_tokens)
    pairs = of_start(regime, config, rows)
    used = result.pop("used")
    student.save(str(folder / "student"))
    scores = {name: float(score_of(student, rows).mean()) for name, rows in holdouts(seed).items()}
    found = {
        **result,
        "score": scores["uniform"],
        "seed_score": scores["seed"],
        "epochs": sum(used.values()) / len(pairs),
    }
    (folder / "done.json").write_text(json.dumps(found))
    return found


def make_small(regime: Regime, seed: int, start: Path) -> str:
    """Returns the folder of the small model of a start, which is trained unless it is there."""
    folder = start / "small"
    if not folder.exists():
        config = config_of(regime, {}, seed)
        create = config.student.create.model_copy(update=SMALL)
        config = config.model_copy(update={"student": config.student.model_copy(update={"create": create})})
        rows = seed_data(regime, config, seed)
        tokens = round(SMALL_TOKENS * regime.start_tokens)
        student, _ = _created(regime, config, rows, start / "small_base", tokens)
        student.save(str(start / "small_part"))
        (start / "small_part").rename(folder)  # a folder of a stopped training is not taken for a model
    return str(folder)


def _created(
    regime: Regime, config: Config, rows: list[dict[str, Any]], base: Path, tokens: int
) -> tuple[Student, dict[str, Any]]:
    """Returns a created student after an initial SFT of `tokens`, and what was trained; `base` gets it untrained."""
    texts = [text for row in rows for text in (row["messages"][0]["content"], row["response"])]
    create_student(config.student.create, texts, str(base), None, config.random_seed)
    student = Student(config, str(base))
    pairs = [{**row, "pair_id": pair_id(row["instruction_id"], 0)} for row in of_start(regime, config, rows)]
    sequences = tokens // config.train.sequence_length
    return student, student.train(pairs, sequences, config.random_seed, rates(config, 0.0, 1.0))


def trial(regime: Regime, arm: Arm, seed: int, start: Path) -> dict[str, Any]:
    """Trains an arm from the start of its regime and seed; returns scores, rows, tokens and calls."""
    changes = {"curriculum.rounds": len(arm.alphas), **arm.changes}
    if changes.get("curriculum.difficulty.measure") == "superfilter":
        changes["curriculum.difficulty.model"] = make_small(regime, seed, start)
    config = config_of(regime, changes, seed)
    student = Student(config, str(start / "student"))
    rows, held = seed_data(regime, config, seed), holdouts(seed)
    sequences = regime.round_tokens // config.train.sequence_length
    teacher = Tasks(Options(seed=seed, teacher_error_rate=regime.teacher_error_rate))
    began = json.loads((start / "done.json").read_text())
    table = conform([{**row, "split": SEED, "source": "seed"} for row in rows], INSTRUCTIONS)
    rounds = Rounds(config, taxonomy_of(config, table), student, table, forbidden(held), teacher)
    rounds.trained = {row["instruction_id"]: 1 for row in of_start(regime, config, rows)}
    if arm.answered_again:
        rows = rounds.answered_again(rows)
    pairs = [{**row, "pair_id": pair_id(row["instruction_id"], 0)} for row in rows]
    made, scores = [], [{"uniform": began["score"], "seed": began["seed_score"]}]
    for number, alpha in enumerate(arm.alphas, start=1):
        schedule = rates(config, 0.0, 1.0)
        if arm.seed_rows_only:
            result = student.train(pairs, sequences, config.random_seed * 100 + number, schedule)
            result.pop("used")
        else:
            result = rounds.run(number, alpha, sequences, schedule)
        made.append(result)
        scores.append({name: float(score_of(student, rows).mean()) for name, rows in held.items()})
    by_task: dict[str, list[float]] = {}
    for row, score in zip(held["uniform"], score_of(student, held["uniform"]), strict=True):
        by_task.setdefault(row["task"], []).append(float(score))
    return {
        "regime": regime.name,
        "arm": arm.name,
        "seed": seed,
        "start": began["score"],
        "score": scores[-1]["uniform"],
        "seed_score": scores[-1]["seed"],
        "by_round": scores,
        "by_task": {task: round(float(np.mean(found)), 3) for task, found in by_task.items()},
        "rounds": made,
        **{f"{role}_calls": rounds.ledger.calls(role) for role in PRICES},
        "usage": rounds.ledger.usage(student.count),
    }


def rates(config: Config, start: float, end: float) -> Any:
    """Returns the learning rate at (step, steps)."""
    train = config.train
    return lambda step, steps: learning_rate_at(step, steps, train.learning_rate, train.warmup_ratio)


def taxonomy_of(config: Config, seeds: pa.Table) -> Taxonomy:
    """Returns the taxonomy of an arm, with the seed data's shares if the arm takes those."""
    counts: dict[str, int] = {}
    for task in seeds["task"].to_pylist():
        counts[task] = counts.get(task, 0) + 1
    return load_taxonomy(config.curriculum).with_seed_counts(counts)


def holdouts(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Returns the two holdouts of a random seed: uniform over families and levels, and in the seed data's shares."""
    number = LIKE_NO_HOLDOUT + seed
    return {
        "uniform": holdout(UNIFORM_ROWS, number),
        "seed": holdout(SEED_SHARED_ROWS, number, cell_counts(SEED_SHARED_ROWS)),
    }


def forbidden(held: dict[str, list[dict[str, Any]]]) -> set[str]:
    """Returns the ids of all holdout rows."""
    return {row["instruction_id"] for rows in held.values() for row in rows}
