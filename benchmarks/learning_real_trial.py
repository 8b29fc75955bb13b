"""One training of the real half of the learning benchmark, and the losses of its student on the holdout by task.

Plan, quotas, sampling, mix, packing, loss and learning rates are those of `learning_rounds.py` and `learning_loop.py`,
so the product's own. The recorded pool stands in for the teacher: a round's candidates are rows of the pool that were
not trained on, where a run would write new instructions and answer them.
"""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.learning_arms import Arm
from benchmarks.learning_loop import Student
from benchmarks.learning_real_data import SHARES, UNIFORM, Split, response_shares, whole_of_response
from benchmarks.learning_rounds import Rounds
from benchmarks.learning_trial import rates
from tapir_ray.config import Config, load
from tapir_ray.curriculum.difficulty import with_difficulty
from tapir_ray.curriculum.plan import Plan
from tapir_ray.curriculum.tasks import load as load_taxonomy
from tapir_ray.data.schemas import GENERATED_ROWS, INSTRUCTIONS, conform, pair_id
from tapir_ray.transforms.losses import TOKENS_ON_CPU, mean_losses, with_losses

HERE = Path(__file__).parent
CONFIG, TASKS = HERE / "learning_real.yaml", HERE / "learning_real_tasks.yaml"
ALPHAS = (0.3, 0.5, 0.7)
"""α of each round: the product's defaults."""
FROM_ALL = {"curriculum.difficulty.select": "none", "expand.sources": {"random": 1.0}}
CANDIDATES = 2.0
"""Tokens of a round's candidates for each token that it trains."""
MARGIN = 1.1
"""Response tokens of a mix for each that is expected to fit into the round's sequences, so that none is repeated."""
OF_SEED = "of the seed data"
"""Placeholder for weights that are the seed data's shares of response tokens."""

ARMS = {
    arm.name: arm
    for arm in (
        Arm("A0", "the seed rows again", {}, ALPHAS, seed_rows_only=True),
        Arm("A1", "new rows, tasks as in the seed data", {**FROM_ALL, "curriculum.weights": OF_SEED}, ALPHAS),
        Arm("A2", "A1 with equal task shares", FROM_ALL, ALPHAS),
        Arm("A7", "A2 with the harder half selected by loss, α 0.3, 0.5, 0.7", {}, ALPHAS),
    )
}
CONTRASTS = (("A1", "A0", "new rows"), ("A2", "A1", "task balance"), ("A7", "A2", "difficulty by loss, rising α"))


@dataclass(frozen=True)
class Setting:
    """Sizes that all arms share. Results of other settings are not compared."""

    tokens: int = 46_080
    """Tokens of the three rounds together."""
    learning_rate: float = 2e-5
    seed_rows: int = 1000
    held_each: int = 40
    """Holdout rows of each task."""

    def sequences(self, config: Config) -> int:
        """Returns the packed sequences of a round: whole optimizer steps."""
        batch = config.train.global_batch_size
        steps = max(1, round(self.tokens / len(ALPHAS) / config.train.sequence_length / batch))
        return steps * batch


def config_of(model: str, setting: Setting, seed: int, changes: dict[str, Any] | None = None) -> Config:
    """Returns the config of an arm."""
    base = {
        "student.model": model,
        "curriculum.tasks": str(TASKS),
        "train.learning_rate": setting.learning_rate,
        "random_seed": seed,
    }
    return load(CONFIG, [f"{key}={json.dumps(value)}" for key, value in {**base, **(changes or {})}.items()])


def changes_of(arm: Arm, setting: Setting, config: Config, found: Split) -> dict[str, Any]:
    """Returns the config keys of an arm, with the sizes that depend on the rows.

    A mix has as many response tokens as the round's sequences hold at the mean of the pool, and the candidates are
    about twice as many rows.
    """
    changes = dict(arm.changes)
    if changes.get("curriculum.weights") == OF_SEED:
        changes["curriculum.weights"] = response_shares(found.seeds)
    weights = changes.get("curriculum.weights") or UNIFORM
    whole = whole_of_response(found.pool)
    tokens = setting.sequences(config) * config.train.sequence_length
    size = round(MARGIN * tokens / sum(weight * whole[task] for task, weight in weights.items()))
    each = {entry["task"]: entry["tokens_mean"] for entry in _means(found.pool)}
    rows = round(CANDIDATES * sum(size * weight / each[task] for task, weight in weights.items()))
    return {**changes, "mix.size": size, "score.max_rows": rows}


def _means(rows: pa.Table) -> list[dict[str, Any]]:
    return list(rows.group_by("task").aggregate([("tokens", "mean")]).to_pylist())


@dataclass
class Clock:
    """Seconds of a CPU by part of a training; on a shared machine more seconds pass than these."""

    laps: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.process_time)

    def lap(self, name: str) -> None:
        """Adds the seconds since the last lap to a part."""
        now = time.process_time()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


@dataclass
class PoolRounds(Rounds):
    """Rounds whose candidates are rows of the recorded pool, and whose difficulty is a loss."""

    clock: Clock = field(default_factory=Clock)
    scored_tokens: int = 0
    """Tokens of the forward passes that measured difficulties."""

    def measured(self, chosen: pa.Table, config: Config) -> pa.Table:
        """Returns the candidates with their difficulty by the config's measure, from losses of the current student."""
        model, trained = self.student.trained.eval(), self.student.config.student
        chosen = with_losses(chosen, model, self.student.tokenizer, trained, TOKENS_ON_CPU)
        encoded = [self.student.encode(row) for row in chosen.to_pylist()]
        # Each row has two passes: the whole pair, and the response after one token.
        self.scored_tokens += sum(len(pair.input_ids) + pair.in_loss + 1 for pair in encoded)
        self.clock.lap("select")
        return with_difficulty(chosen, config.curriculum.difficulty.measure)

    def expanded(self, number: int, config: Config, plan: Plan, scored: pa.Table) -> pa.Table:
        """Returns no row: the candidates are the new rows."""
        return GENERATED_ROWS.empty_table()


@dataclass
class Trial:
    """One training: an arm, a random seed and what they share with the others."""

    arm: Arm
    seed: int
    setting: Setting
    model: str
    """Folder of the student."""
    found: Split
    config: Config = field(init=False)
    trained: dict[str, int] = field(default_factory=dict)
    """How often each instruction was trained on."""

    def __post_init__(self) -> None:
        plain = config_of(self.model, self.setting, self.seed)
        changes = changes_of(self.arm, self.setting, plain, self.found)
        self.config = config_of(self.model, self.setting, self.seed, changes)

    def run(self, before: dict[str, list[tuple[float, int]]] | None = None) -> dict[str, Any]:
        """Trains, and returns the result line. `before` has the losses of the untrained student, if they are known."""
        student = Student(self.config, self.model, answers=False)
        clock = Clock()
        before = before or holdout_losses(student, self.found.holdout)
        clock.lap("evaluate")
        made, scored_tokens = self._train(student, clock)
        after = holdout_losses(student, self.found.holdout)
        clock.lap("evaluate")
        return {
            "arm": self.arm.name,
            "seed": self.seed,
            **vars(self.setting),
            "before": before,
            "after": after,
            "rounds": made,
            "distinct": len(self.trained),
            "scored_tokens": scored_tokens,
            "cpu_seconds": {name: round(value, 1) for name, value in clock.laps.items()},
            "seconds": round(time.monotonic() - clock.began, 1),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }

    def _train(self, student: Student, clock: Clock) -> tuple[list[dict[str, Any]], int]:
        config, sequences = self.config, self.setting.sequences(self.config)
        pool = conform(self.found.pool, INSTRUCTIONS)
        rounds = PoolRounds(config, load_taxonomy(config.curriculum), student, pool, trained=self.trained, clock=clock)
        seeds = [{**row, "pair_id": pair_id(row["instruction_id"], 0)} for row in self.found.seeds.to_pylist()]
        task_of = dict(
            zip(
                [*pool["instruction_id"].to_pylist(), *(row["instruction_id"] for row in seeds)],
                [*pool["task"].to_pylist(), *(row["task"] for row in seeds)],
                strict=True,
            )
        )
        schedule, made = rates(config, 0.0, 1.0), []
        for number, alpha in enumerate(self.arm.alphas, start=1):
            times = dict(rounds.trained)
            if self.arm.seed_rows_only:
                result = student.train(seeds, sequences, config.random_seed * 100 + number, schedule)
                for name, used in result.pop("used").items():
                    rounds.trained[name] = rounds.trained.get(name, 0) + used
            else:
                result = rounds.run(number, alpha, sequences, schedule)
            new = {name: used - times.get(name, 0) for name, used in rounds.trained.items()}
            result["by_task"] = {
                task: sum(used for name, used in new.items() if task_of[name] == task) for task in SHARES
            }
            made.append(result)
            clock.lap("train")
            print(f"{self.arm.name} seed {self.seed} round {number}: {json.dumps(result)}", flush=True)
        return made, rounds.scored_tokens


def holdout_losses(student: Student, rows: pa.Table) -> dict[str, list[tuple[float, int]]]:
    """Returns (cross-entropy of the response in nats, its tokens) of each row, by task in the order of the rows."""
    found: dict[str, list[tuple[float, int]]] = {task: [] for task in SHARES}
    encoded = [(row["task"], student.encode(row)) for row in rows.to_pylist()]
    sequences = [
        {
            "input_ids": np.asarray(pair.input_ids, np.int64),
            "labels": np.asarray(pair.labels, np.int64),
            "position_ids": np.arange(len(pair.input_ids)),
        }
        for _, pair in encoded
    ]
    for (task, pair), mean in zip(encoded, mean_losses(student.trained.eval(), sequences, TOKENS_ON_CPU), strict=True):
        found[task].append((round(mean * pair.in_loss, 4), pair.in_loss))
    return found
