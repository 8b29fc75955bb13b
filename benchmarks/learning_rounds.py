"""The rounds of one arm of the learning benchmark, in memory: candidates, plan, expansion, mix and training.

Every decision is the product's: candidates and quotas, δ and α, draws, pools, the mix and its order. The student and
the simulator's functions stand in for the engines and servers of a run (`learning_loop.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.learning_loop import Student, answered, row_of
from tapir_ray.config import Config
from tapir_ray.curriculum.difficulty import with_difficulty, with_pool
from tapir_ray.curriculum.mix import make_mix
from tapir_ray.curriculum.plan import Plan, make_plan
from tapir_ray.curriculum.quotas import Cell
from tapir_ray.curriculum.sampling import count_cells, cutoffs, take_table
from tapir_ray.curriculum.sources import probe_share
from tapir_ray.curriculum.stats import table_stats
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.data.schemas import GENERATED_ROWS, SCORED, TRAINING, conform, pair_id, with_columns
from tapir_ray.simulator.requests import ANSWER, EXPAND, STYLED, Request
from tapir_ray.simulator.tasks import Tasks
from tapir_ray.steps.generate import as_draws, of_any_pool
from tapir_ray.steps.mix import generated_pool, hard_and_easy
from tapir_ray.steps.score import CELLED, candidate_quota, scorable
from tapir_ray.transforms.judge_request import seed_of
from tapir_ray.transforms.mark_style import mark_style


@dataclass
class Rounds:
    """The state of an arm across rounds."""

    config: Config
    taxonomy: Taxonomy
    student: Student
    seeds: pa.Table
    """Seed rows, schema INSTRUCTIONS."""
    forbidden: set[str] = field(default_factory=set)
    """Ids that no new row may have: those of the holdouts."""
    teacher: Tasks | None = None
    """The simulator, which also judges; None for rounds that override `measured` and `expanded`."""
    generated: list[pa.Table] = field(default_factory=list)
    trained: dict[str, int] = field(default_factory=dict)
    """How often each instruction was trained on."""
    calls: dict[str, int] = field(default_factory=lambda: {"teacher": 0, "judge": 0})

    def run(self, number: int, alpha: float, sequences: int, rates: Callable[[int, int], float]) -> dict[str, Any]:
        """Trains one round, and returns its plan and what was trained on."""
        config = self.config.model_copy(
            update={"curriculum": self.config.curriculum.model_copy(update={"alpha": alpha, "alpha_step": 0.0})}
        )
        scored = self.scored(number, config)
        plan = make_plan(number, table_stats(scored, config.judge.min_teacher_score), config, self.taxonomy)
        self.generated.append(self.expanded(number, config, plan, scored))
        pairs, mixed = self.mixed(number, config, plan, scored)
        seed = config.random_seed * 100 + number
        result = self.student.train(pairs, sequences, seed, rates)
        for name, times in result.pop("used").items():
            self.trained[name] = self.trained.get(name, 0) + times
        return {
            **result,
            "threshold": plan.threshold,
            "hard": plan.hard,
            "easy": plan.easy,
            "alpha": mixed.alpha,
            "new_rows": len(self.generated[-1]),
            "rows": len(pairs),
            "warnings": [*plan.warnings, *mixed.warnings],
        }

    def answered_again(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns rows with the teacher's answers in the place of their own."""
        return [{**row, "response": self._ask(ANSWER, {}, 0, row["messages"])} for row in rows]

    def scored(self, number: int, config: Config) -> pa.Table:
        """Returns the candidates, with scores unless nothing is selected."""
        tables = [scorable(table) for table in [self.seeds, *self.generated]]
        if self.generated:
            # The probes of the round before are in cells of their own, from which candidates are taken first.
            tables[-1] = scorable(self.generated[-1], probe_share(number - 1, config), config.random_seed)
        rows = pa.concat_tables([conform(table, CELLED) for table in tables])
        if config.score.candidates == "unseen":
            rows = rows.filter(pc.invert(pc.is_in(rows["instruction_id"], pa.array(sorted(self.trained), pa.string()))))
        counts = count_cells(rows, config.random_seed, (number, "score"))
        quota = candidate_quota(counts.capacities, config.score.max_rows, self.taxonomy)
        chosen = conform(take_table(rows, cutoffs(rows, counts, quota)), SCORED)
        times = [self.trained.get(name, 0) for name in chosen["instruction_id"].to_pylist()]
        chosen = with_columns(chosen, times_trained=pa.array(times, pa.int64()))
        return chosen if config.curriculum.difficulty.select == "none" else self.measured(chosen, config)

    def measured(self, chosen: pa.Table, config: Config) -> pa.Table:
        """Returns the candidates with their difficulty, by answers of the student that the simulator judges."""
        assert self.teacher is not None
        texts = [messages[-1]["content"] for messages in chosen["messages"].to_pylist()]
        answers = self.student.answer(texts)
        identities = chosen["instruction_id"].to_pylist()
        both = answered(texts, chosen["response"].to_pylist(), answers, identities, self.teacher.options)
        self.calls["judge"] += 2 * len(texts)  # both orders
        chosen = with_columns(
            chosen,
            student_response=pa.array(answers),
            teacher_score=pa.array([pair[0] for pair in both], pa.float64()),
            student_score=pa.array([pair[1] for pair in both], pa.float64()),
        )
        return with_difficulty(chosen, config.curriculum.difficulty.measure)

    def expanded(self, number: int, config: Config, plan: Plan, scored: pa.Table) -> pa.Table:
        """Returns the new rows of the round, schema GENERATED_ROWS: those that are neither repeats nor of a holdout."""
        least = config.judge.min_teacher_score
        pooled = with_pool(scored, plan.threshold, least, plan.ceiling)
        drawn = [
            as_draws(self._taken(table, number, quota, *source), round_number=number, source=source)
            for table, quota, source in (
                (pooled, plan.draws, ()),
                (of_any_pool(pooled), plan.random_draws, ("random",)),
            )
            if quota
        ]
        known = {*self.forbidden, *self.seeds["instruction_id"].to_pylist()}
        known.update(name for table in self.generated for name in table["instruction_id"].to_pylist())
        rows = []
        for row in pa.concat_tables(drawn).to_pylist():
            parts = {"instruction": row["messages"][-1]["content"]}
            text = self._ask(EXPAND, parts, seed_of(row["draw_id"], "expand")).removeprefix("<new_instruction>")
            new = row_of(text.removesuffix("</new_instruction>"), "")
            if new["instruction_id"] in known:
                continue
            known.add(new["instruction_id"])
            styled = _styled(config, new["task"])
            new["response"] = self._ask(STYLED if styled else ANSWER, {}, 0, new["messages"])
            rows.append(
                {
                    **row,
                    **new,
                    "split": "generated",
                    "source": "generated",
                    "style": self.taxonomy.styles[new["task"]] if styled else None,
                }
            )
        return conform(rows, GENERATED_ROWS)

    def _taken(self, table: pa.Table, number: int, quota: dict[Cell, int], *source: str) -> pa.Table:
        found = count_cells(table, self.config.random_seed, (number, "expand", *source))
        return take_table(table, cutoffs(table, found, quota))

    def _ask(
        self, kind: str, parts: dict[str, str], seed: int, conversation: list[dict[str, str]] | None = None
    ) -> str:
        assert self.teacher is not None
        self.calls["teacher"] += 1
        identity = repr((kind, parts, conversation, seed))
        return self.teacher.reply(Request(kind, parts, tuple(conversation or ()), seed, identity, None, "teacher"))

    def mixed(self, number: int, config: Config, plan: Plan, scored: pa.Table) -> tuple[list[dict[str, Any]], Any]:
        """Returns the drawn training pairs of the round, and the mix."""
        pooled, new = (
            with_pool(scored, plan.threshold, config.judge.min_teacher_score, plan.ceiling),
            self.generated[-1],
        )
        if config.rewrite.mark:
            pooled, new = mark_style(pooled), mark_style(new)
        share = probe_share(number, config)
        pooled, new = hard_and_easy(pooled), generated_pool(new, share, config.random_seed)
        rows = pa.concat_tables([conform(pooled, TRAINING), conform(new, TRAINING)])
        tokens = [self.student.encode(row).in_loss for row in rows.to_pylist()]
        rows = with_columns(rows, tokens=pa.array(tokens, pa.int64())).drop_columns(["copy"])
        found = count_cells(rows, config.random_seed, (number, "mix"), "tokens")
        mix = make_mix(plan, found.capacities, config, self.taxonomy)
        unit = "size" if config.mix.unit == "tokens" else "rows"
        pairs = take_table(rows, cutoffs(rows, found, mix.table, unit)).to_pylist()
        return [{**row, "pair_id": pair_id(row["instruction_id"], row["copy"])} for row in pairs], mix


def _styled(config: Config, task: str) -> bool:
    tasks = config.rewrite.tasks
    return tasks == "all" or task in tasks
