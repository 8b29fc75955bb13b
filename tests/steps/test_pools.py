"""Pools of a training set: generated rows by their source, probes that stay out, and unscored rows that fill it up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tapir_ray.config import CreateModel
from tapir_ray.curriculum.actor import Handle
from tapir_ray.curriculum.mix import make_mix
from tapir_ray.curriculum.plan import make_plan
from tapir_ray.curriculum.stats import table_stats
from tapir_ray.data.schemas import (
    GENERATED_ROWS,
    HOLDOUT,
    INSTRUCTIONS,
    SCORED,
    SEED,
    conform,
    draw_id,
    in_share,
    instruction_id,
)
from tapir_ray.steps import mix
from tapir_ray.steps.context import Context
from tapir_ray.train.create_student import create_student
from tests.steps.contexts import context_for, rows_of, write

HARD, EASY, UNSCORED, HELD, NEW = 20, 30, 40, 5, 20


def row(name: str, split: str = SEED, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": name}]
    found = {"instruction_id": instruction_id(messages), "messages": messages, "response": "yes yes", "task": "Math"}
    return {**found, "split": split, "status": "ok", "source": name.partition(" ")[0], **more}


SCORES = [
    *(row(f"hard {n}", difficulty=6.0, teacher_score=9.0, student_score=3.0) for n in range(HARD)),
    *(row(f"easy {n}", difficulty=0.0, teacher_score=9.0, student_score=9.0) for n in range(EASY)),
    row("failed 0", status="failed"),
]
OTHERS = [
    *(row(f"unscored {n}") for n in range(UNSCORED)),
    *(row(f"held {n}", HOLDOUT) for n in range(HELD)),
    row("unlabelled 0", task=None),
    row("filtered 0", status="filtered"),
]
NEW_ROWS = [
    row(f"new {n}", "generated", draw_id=draw_id(1, "p", n), round=1, pool="easy" if n % 4 == 0 else "hard")
    for n in range(NEW)
]
NEW_ROWS[1]["pool"] = None


def mixed(folder: Path, size: int | None, fill: str, probe_share: float, rounds: int = 2) -> Context:
    """Returns the context after the mix of round 1, from the rows above."""
    model = str(folder / "student")
    create_student(CreateModel(), ["new hard easy unscored yes 0123456789"] * 9, model, None, 0)
    context = context_for(
        folder,
        write(folder / "seed.jsonl", []),
        student={"model": model},
        mix={"unit": "pairs", "size": size, "fill": fill},
        expand={"probe_share": probe_share, "size": NEW},
        curriculum={"alpha": 0.5, "rounds": rounds, "weights": {"Math": 1.0}},
    )
    run, loop, config = context.run, context.loop, context.config
    scored = conform(SCORES, SCORED)
    # The row whose scoring failed is a usable seed row, and was a candidate all the same.
    seeds = [{**one, "status": "ok"} for one in SCORES]
    run.write_rows(loop.instructions, conform([*seeds, *OTHERS], INSTRUCTIONS))
    run.write_rows(loop.round(1).scored, scored)
    run.write_rows(loop.round(1).generated, conform(NEW_ROWS, GENERATED_ROWS))
    run.publish(loop.checkpoint(0), extra={"model": model})
    plan = make_plan(1, table_stats(scored, 4.0), config, context.taxonomy)

    def plan_mix(round_number: int, capacities: dict[tuple[str, str], tuple[int, int]]) -> Any:
        return make_mix(plan, capacities, config, context.taxonomy)

    context.curriculum = cast(Handle, SimpleNamespace(plan_mix=plan_mix))
    mix.mix(context, 1, plan)
    return context


def trained(context: Context) -> list[tuple[str, str, int]]:
    """Returns (kind of row, pool, copy) of the training set."""
    return [
        (row["messages"][0]["content"].partition(" ")[0], row["pool"], row["copy"])
        for row in rows_of(context, context.loop.training(1))
    ]


def test_generated_rows_are_in_the_pool_of_their_source(ray_local: None, tmp_path: Path) -> None:
    """5 of 20 new rows were drawn from easy rows; one without a pool counts as hard. α 0.5 takes all rows twice."""
    context = mixed(tmp_path, None, "none", 0.0)
    found = Counter((kind, pool) for kind, pool, _ in trained(context))
    assert found == {("hard", "hard"): 40, ("new", "hard"): 30, ("easy", "easy"): 60, ("new", "easy"): 10}
    assert context.run.read_json("rounds/01/plan.json")["mix"]["probes"] == {}


@pytest.mark.parametrize("rounds", [1, 2])
def test_probes_stay_out_of_every_round_but_the_last(ray_local: None, tmp_path: Path, rounds: int) -> None:
    share = 0.5 if rounds == 2 else 0.0
    context = mixed(tmp_path, None, "none", share, rounds)
    probes = {row["instruction_id"] for row in NEW_ROWS if in_share(row["draw_id"], 0, share, "probe")}
    assert (4 < len(probes) < 16) if rounds == 2 else not probes
    training = {row["instruction_id"] for row in rows_of(context, context.loop.training(1))}
    assert training & {row["instruction_id"] for row in NEW_ROWS} == {
        row["instruction_id"] for row in NEW_ROWS if row["instruction_id"] not in probes
    }
    record = context.run.read_json("rounds/01/plan.json")["mix"]["probes"]
    assert record == ({"Math": len(probes)} if probes else {})
    marked = {row["instruction_id"] for row in rows_of(context, context.loop.round(1).pool) if row["pool"] == "probe"}
    assert marked == probes
    (event,) = context.run.events("mix")
    assert event.get("probes", 0) == len(probes)


@pytest.mark.parametrize(
    ("size", "hard", "easy", "unscored"), [(60, 30, 30, 0), (90, 35, 35, 20), (110, 35, 35, 40), (150, 55, 55, 40)]
)
def test_unscored_rows_fill_the_set_before_any_row_is_repeated(
    ray_local: None, tmp_path: Path, size: int, hard: int, easy: int, unscored: int
) -> None:
    """35 hard and 35 easy rows: 20 + 15 and 30 + 5 of seed data and generated ones. Neither failed, filtered, held out
    nor unlabelled rows are among the 40 that fill the set."""
    rows = trained(mixed(tmp_path, size, "unscored", 0.0))
    assert Counter(pool for _, pool, _ in rows) == {
        pool: n for pool, n in (("hard", hard), ("easy", easy), ("unscored", unscored)) if n
    }
    assert {kind for kind, pool, _ in rows if pool == "unscored"} <= {"unscored"}
    assert {copy for *_, copy in rows} == ({0, 1} if size == 150 else {0})
    assert {copy for _, pool, copy in rows if pool == "unscored"} <= {0}
