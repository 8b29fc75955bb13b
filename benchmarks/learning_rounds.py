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

from benchmarks.learning_ledger import ANSWER as ANSWERED
from benchmarks.learning_ledger import EXPANSION, Ledger, words
from benchmarks.learning_loop import Student, row_of
from benchmarks.learning_measures import with_measured
from tapir_ray.config import Config
from tapir_ray.curriculum.difficulty import with_pool
from tapir_ray.curriculum.mix import make_mix
from tapir_ray.curriculum.plan import Plan, make_plan
from tapir_ray.curriculum.quotas import Cell
from tapir_ray.curriculum.reweigh import with_weights
from tapir_ray.curriculum.sampling import count_cells, cutoffs, take_table
from tapir_ray.curriculum.sources import probe_share
from tapir_ray.curriculum.stats import table_stats
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.data.schemas import GENERATED_ROWS, SCORED, TRAINING, conform, pair_id, with_columns
from tapir_ray.simulator.requests import ANSWER, EXPAND, STYLED, Request, read
from tapir_ray.simulator.tasks import Tasks
from tapir_ray.steps.generate import as_draws, of_any_pool
from tapir_ray.steps.mix import generated_pool, hard_and_easy
from tapir_ray.steps.score import CELLED, candidate_quota, scorable
from tapir_ray.transforms.expand import EASIER, HARDER, ExpandRow, parse_instruction
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
    weights: dict[str, float] | None = None
    """Task weights of the plan before, which `curriculum.weights_by: ddk` moves on from."""
    ledger: Ledger = field(default_factory=Ledger)

    def run(self, number: int, alpha: float, sequences: int, rates: Callable[[int, int], float]) -> dict[str, Any]:
        """Trains one round, and returns its plan and what was trained on."""
        config = self.config.model_copy(
            update={"curriculum": self.config.curriculum.model_copy(update={"alpha": alpha, "alpha_step": 0.0})}
        )
        scored = self.scored(number, config)
        stats = table_stats(scored, config.judge.min_teacher_score)
        plan = make_plan(number, stats, config, self.taxonomy, self.weights)
        self.weights = plan.weights
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
            **({"weights": {task: round(share, 4) for task, share in plan.weights.items()}} if plan.gaps else {}),
            "warnings": [*plan.warnings, *mixed.warnings],
        }

    def answered_again(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns rows with the teacher's answers in the place of their own."""
        return [{**row, "response": self._answer(row)} for row in rows]

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
        """Returns the candidates with their difficulty by the configured measure; the simulator judges."""
        assert self.teacher is not None
        seed = config.random_seed * 100 + len(self.generated) + 1
        return with_measured(chosen, config, self.student, self.teacher.options, self.ledger, seed)

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
        rows, by = [], ExpandRow.of(config)
        for row in pa.concat_tables(drawn).to_pylist():
            text, operation = self._expand(row, by)
            new = row_of(text, "")
            if new["instruction_id"] in known:
                continue
            known.add(new["instruction_id"])
            styled = _styled(config, new["task"])
            new["response"] = self._answer(new, styled)
            rows.append(
                {
                    **row,
                    **new,
                    "operation": operation,
                    "split": "generated",
                    "source": "generated",
                    "style": self.taxonomy.styles[new["task"]] if styled else None,
                }
            )
        return conform(rows, GENERATED_ROWS)

    def _taken(self, table: pa.Table, number: int, quota: dict[Cell, int], *source: str) -> pa.Table:
        found = count_cells(table, self.config.random_seed, (number, "expand", *source))
        return take_table(table, cutoffs(table, found, quota))

    def _expand(self, row: dict[str, Any], by: ExpandRow) -> tuple[str, str | None]:
        """Returns the teacher's new instruction for a draw, and the operation that was asked for."""
        text, seed = row["messages"][-1]["content"], seed_of(row["draw_id"], "expand")
        if by.settings.prompt == "like":
            parts, shown, size, operation = {"instruction": text}, [text], words("expand", task=row["task"]), None
            reply = self._reply(Request(EXPAND, parts, (), seed, repr((EXPAND, parts, None, seed)), None, "teacher"))
        else:
            prompt, operation = by.prompt_of(row, text)
            asked = {"model": "teacher", "messages": [{"role": "user", "content": prompt}], "seed": seed}
            answers = [row["parent_response"], row["student_response"]] if operation in (EASIER, HARDER) else []
            shown = [text, *answers]
            size = len(prompt.encode()) - sum(len(one.encode()) for one in shown)
            reply = self._reply(read(asked))
        new, problem = parse_instruction(reply)
        assert new is not None, problem
        outside = len(reply.encode()) - len(new.encode())
        self.ledger.asked(EXPANSION, shown, new, prompt_bytes=size, reply_bytes=outside)
        return new, operation

    def _answer(self, row: dict[str, Any], styled: bool = False) -> str:
        """Returns the teacher's answer to a row's instruction."""
        kind, conversation = STYLED if styled else ANSWER, tuple(row["messages"])
        identity = repr((kind, {}, row["messages"], 0))
        answer = self._reply(Request(kind, {}, conversation, 0, identity, None, "teacher"))
        style = words("respond", task=row["task"], style=self.taxonomy.styles[row["task"]]) if styled else 0
        self.ledger.asked(ANSWERED, [row["messages"][-1]["content"]], answer, prompt_bytes=style)
        return answer

    def _reply(self, request: Request) -> str:
        assert self.teacher is not None
        return self.teacher.reply(request)

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
        taxonomy = with_weights(self.taxonomy, plan.weights) if plan.gaps else self.taxonomy
        mix = make_mix(plan, found.capacities, config, taxonomy)
        unit = "size" if config.mix.unit == "tokens" else "rows"
        pairs = take_table(rows, cutoffs(rows, found, mix.table, unit)).to_pylist()
        return [{**row, "pair_id": pair_id(row["instruction_id"], row["copy"])} for row in pairs], mix


def _styled(config: Config, task: str) -> bool:
    tasks = config.rewrite.tasks
    return tasks == "all" or task in tasks
