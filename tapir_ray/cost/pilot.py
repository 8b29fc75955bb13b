"""Sends a few real rows through every stage that asks a model, to measure the requests and tokens of a run.

    with started(config, "runs/demo-pilot-0f3a") as context:
        sizes = measured(context, seed, rows=50)

The functions of the stages send the requests, and usage is counted for each row. Nothing is trained. The answer of a
student that the run serves is replaced by part of the teacher's: a random share from 0.5 to 1, at most the student's
`max_tokens`. A student at an endpoint is asked. Every scored row counts as hard.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa

from tapir_ray.config import Config
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.size import BYTES_PER_TOKEN, Size
from tapir_ray.cost.sizes import Sizes, bounds
from tapir_ray.curriculum.measures import configured_measure
from tapir_ray.curriculum.quotas import apportion
from tapir_ray.curriculum.tasks import Taxonomy
from tapir_ray.data import schemas
from tapir_ray.data.contamination_index import ContaminationIndex
from tapir_ray.data.ngrams import DEFAULT_WORDS, boilerplate_of
from tapir_ray.data.schemas import BUDGET_USED_UP, FAILED, HOLDOUT, OK, SEED
from tapir_ray.errors import StageError, Stopped
from tapir_ray.llm.asker import AskRow, Row
from tapir_ray.llm.budget.usage import Count, Lease, Meter
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.event_loop import complete
from tapir_ray.llm.prompts import Prompts
from tapir_ray.steps.context import Context
from tapir_ray.transforms.answer import student_answer
from tapir_ray.transforms.expand import ExpandRow
from tapir_ray.transforms.filters import BEFORE, mark_rows, row_filters
from tapir_ray.transforms.judge import JudgeRow
from tapir_ray.transforms.judge_question import Questions
from tapir_ray.transforms.label import LabelRow
from tapir_ray.transforms.respond import RespondRow
from tapir_ray.transforms.revise import ReviseRow

_row_counts: contextvars.ContextVar[dict[str, Count]] = contextvars.ContextVar("row_counts")


class RowMeter(Meter):
    """Counts usage also for the row of the request; each row has its own asyncio task and so its own context."""

    def record(self, role: str, count: Count, lease: Lease | None = None, known: bool = True) -> None:
        counts = _row_counts.get()
        counts[role] = counts.get(role, Count("row")) + count
        super().record(role, count, lease, known)


def measured(context: Context, seed: Seed, rows: int) -> Sizes:
    """Returns sizes measured on `rows` seed rows in every stage, with about ten requests per row.

    Raises Stopped if the budget is too small, StageError if all rows of a stage fail.
    """
    return complete(_Pilot(context, seed, rows).run())


def answered(context: Context, seed: Seed, rows: int) -> dict[str, list[Row]]:
    """Returns the rows of `measured` after each stage, by its name: label, fill, score_seed, …, in their order.

    Raises errors as `measured` does.
    """
    pilot = _Pilot(context, seed, rows)
    complete(pilot.run())
    return pilot.answered


class _Pilot:
    """Runs the stages one after the other and fills in the sizes."""

    def __init__(self, context: Context, seed: Seed, rows: int) -> None:
        self.context, self.config, self.seed, self.rows = context, context.config, seed, rows
        self.prompts = Prompts(self.config.prompts.dir)
        self.answered: dict[str, list[Row]] = {}
        self.sizes = Sizes(measured=rows, most=bounds(self.config, seed, context.taxonomy))

    async def run(self) -> Sizes:
        self.clients, meter = self.context.roles.clients(RowMeter)
        try:
            await self._stages()
        finally:
            await meter.flush()
            await asyncio.gather(*(client.close() for client in self.clients.values()))
        return self.sizes

    async def _stages(self) -> None:
        config, taxonomy = self.config, self.context.taxonomy
        held, chosen = _split(self.seed, config, self.rows)
        chosen = await self._labelled(chosen)
        if taxonomy.from_seed:
            taxonomy = taxonomy.with_seed_counts(Counter(row["task"] for row in chosen))
        held = [{**row, "task": row["task"] or taxonomy.labels[0], "split": HOLDOUT} for row in held]
        self.sizes.tasks = {task: n / len(chosen) for task, n in Counter(row["task"] for row in chosen).items()}
        answer = RespondRow(Questions.of(config), config, dict(taxonomy.styles))
        if config.seed_data.responses != "keep":
            chosen, held = await self._filled(answer, chosen), await self._filled(answer, held)
        selects = config.scores_candidates
        scored = await self._score("score_seed", chosen) if selects else chosen
        await self._score("score_holdout", held)
        if config.work == "elad":
            revise = ReviseRow(self.prompts, config, dict(taxonomy.styles))
            annotated = await self._ask("annotate", revise, [_stand_in(row, config) for row in chosen])
            self._keep("annotated", annotated, schemas.ANNOTATED)
            return
        draws = _draws(scored, taxonomy, self.rows, config.expand.examples)
        expanded = await self._ask("expand", ExpandRow.of(config), draws)
        made = [row for row in expanded if row["status"] == OK]
        fresh = _fresh(made, self.seed, config)
        self.sizes.expanded = len(made) / max(1, len(draws))
        self.sizes.fresh = len(fresh) / max(1, len(made))
        answered = await self._ask("respond", answer, fresh)
        new = [row for row in answered if row["status"] == OK]
        self.sizes.accepted = len(new) / max(1, len(fresh))
        if selects:
            await self._score("score_new", new)
        self._keep("scored", scored, schemas.SCORED)
        self._keep("generated", answered, schemas.GENERATED_ROWS)

    async def _labelled(self, rows: list[Row]) -> list[Row]:
        """Returns the rows with their task: the teacher's label if the run asks for labels, else the column, else a
        guess by words."""
        config, taxonomy = self.config, self.context.taxonomy
        if config.classify.by == "teacher" or (config.classify.by == "deberta" and config.classify.label_rows):
            label = LabelRow(self.prompts, tuple(taxonomy.labels), config.classify.label_attempts)
            return [row for row in await self._ask("label", label, rows) if row["status"] == OK]
        found = (row["task"] or taxonomy.label_by_words(schemas.text_of(row["messages"])) for row in rows)
        return [{**row, "task": task} for row, task in zip(rows, found, strict=True)]

    async def _filled(self, answer: AskRow, rows: list[Row]) -> list[Row]:
        """Returns the rows with an answer, their own or the teacher's; with `replace` all are the teacher's."""
        replace = self.config.seed_data.responses == "replace"
        rows = [{**row, "response": None} for row in rows] if replace else rows
        answered = [row for row in rows if row["response"] is not None]
        filled = await self._ask("fill", answer, [row for row in rows if row["response"] is None])
        return answered + [row for row in filled if row["status"] == OK]

    async def _score(self, asked: str, rows: list[Row]) -> list[Row]:
        """Returns the rows with the answers and scores that the difficulty measure needs."""
        measure = configured_measure(self.config.curriculum.difficulty)
        judge = JudgeRow.of(self.config, self.config.random_seed)
        is_here = self.config.student.endpoint is None

        async def score(clients: Mapping[str, Client], row: Row) -> Row:
            if measure.asks_student and not is_here:
                row = await student_answer(clients, row, measure.samples, measure.temperature)
            return await judge(clients, row) if measure.judge else row

        return await self._ask(asked, score, [_stand_in(row, self.config) for row in rows] if is_here else rows)

    async def _ask(self, asked: str, function: AskRow, rows: Sequence[Row]) -> list[Row]:
        """Applies `function` to the rows, and stores the usage of each in `sizes.rows[asked]`."""

        async def one(row: Row) -> Row:
            counts: dict[str, Count] = {}
            _row_counts.set(counts)
            answered = await function(self.clients, dict(row))
            used = {role: Size(n.requests, n.input_tokens, n.output_tokens) for role, n in counts.items()}
            self.sizes.rows.setdefault(asked, []).append((row["task"], used))
            return answered

        self.sizes.rows.setdefault(asked, [])
        if not rows:
            return []
        with self.context.progress.stage(f"pilot {asked}") as facts:
            answered = list(await asyncio.gather(*(asyncio.create_task(one(row)) for row in rows)))
            facts["rows"] = len(answered)
        missed = self.sizes.reasons.setdefault(asked, Counter())
        missed.update(str(row["reason"]) for row in answered if row["status"] != OK)
        self.sizes.asked[asked] = self.sizes.asked.get(asked, 0) + len(answered)
        reasons = [str(row["reason"]) for row in answered if row["status"] == FAILED]
        if BUDGET_USED_UP in reasons:
            raise Stopped("the budget is too small for the pilot; raise it, or lower --pilot")
        if reasons and len(reasons) == len(answered):
            raise StageError(f"pilot {asked}: all {len(reasons)} rows failed; the first: {reasons[0]}")
        self.answered[asked] = self.answered.get(asked, []) + answered
        return answered

    def _keep(self, name: str, rows: list[Row], schema: pa.Schema) -> None:
        if rows:
            self.context.run.write_rows(f"pilot/{name}", schemas.conform(rows, schema))


def _split(seed: Seed, config: Config, rows: int) -> tuple[list[Row], list[Row]]:
    """Returns (holdout rows, other rows); each stratum gives as many holdout rows as its share of the holdout."""
    held = seed.held_out(config)
    wanted = apportion(min(rows, sum(held.values())), held, _weights(held)) if sum(held.values()) else {}
    by_stratum: dict[str, list[Row]] = defaultdict(list)
    for row in seed.sample:
        by_stratum[row["stratum"]].append(row)
    chosen = [row for name, n in wanted.items() for row in by_stratum[name][:n]]
    ids = {row["instruction_id"] for row in chosen}
    others = [{**row, "split": SEED} for row in seed.sample if row["instruction_id"] not in ids]
    return chosen, others[:rows]


def _weights(counts: Mapping[str, int]) -> dict[str, float]:
    return {name: max(1e-9, float(n)) for name, n in counts.items()}


def _stand_in(row: Row, config: Config) -> Row:
    """Returns the row with part of its answer as the student's answer."""
    words = (row["response"] or "").encode()[: BYTES_PER_TOKEN * config.student.sampling.max_tokens]
    part = random.Random(row["instruction_id"]).uniform(0.5, 1.0)
    return {
        **row,
        "student_response": words[: round(part * len(words))].decode(errors="ignore"),
        "finish_reason": "stop",
    }


def _draws(scored: list[Row], taxonomy: Taxonomy, rows: int, examples: int = 1) -> list[Row]:
    """Returns `rows` draws from the scored rows: tasks by their weights, rows of a task in turn.

    Each shows `examples` rows of its task, or all: its own and the next ones.
    """
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in scored:
        if row["status"] == OK:
            by_task[row["task"]].append(row)
    weights = taxonomy.effective_weights(by_task)
    quota = apportion(rows, dict.fromkeys(weights, rows), weights)
    parents = [(by_task[task][number % len(by_task[task])], number) for task, n in quota.items() for number in range(n)]
    return [
        {
            **row,
            "parent_id": row["instruction_id"],
            "parent_response": row["response"],
            "draw_id": schemas.draw_id(0, row["instruction_id"], number),
            "round": 1,
            "examples": _next(by_task[row["task"]], number, examples - 1),
        }
        for row, number in parents
    ]


def _next(rows: list[Row], number: int, wanted: int) -> list[str]:
    """Returns the instructions of the rows after that of draw `number`, each once."""
    found = [rows[(number + step) % len(rows)] for step in range(1, min(wanted + 1, len(rows)))]
    return [schemas.text_of([turn for turn in row["messages"] if turn["role"] != "system"]) for row in found]


def _fresh(made: list[Row], seed: Seed, config: Config) -> list[Row]:
    """Returns the new instructions that pass the filters of single rows and resemble no row of the seed sample."""
    if not made:
        return []
    table = schemas.conform(made, schemas.GENERATED_ROWS)
    passed = [status == OK for status in mark_rows(table, row_filters(config, BEFORE))["status"].to_pylist()]
    known = [row["messages"] for row in seed.sample]
    boilerplate = boilerplate_of(known, config.filter.common_ngram_rows, config.filter.ngram or DEFAULT_WORDS)
    index = ContaminationIndex.build(known, 0, config.filter.near_duplicate, boilerplate)
    repeated = index.contaminated([row["messages"] for row in made])
    return [row for row, ok, kind in zip(made, passed, repeated, strict=True) if ok and kind is None]
