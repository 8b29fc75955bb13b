"""Mixing: α is the hard share of a round's training tokens, even if hard answers are much longer than easy ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data

from tapir_ray.config import CreateModel
from tapir_ray.curriculum.actor import Handle
from tapir_ray.curriculum.mix import Mix, make_mix
from tapir_ray.curriculum.plan import Plan, make_plan
from tapir_ray.curriculum.stats import ScoreStats, TaskStats
from tapir_ray.data.schemas import GENERATED_ROWS, OK, SCORED, TRAINING, conform, instruction_id
from tapir_ray.steps.context import Context
from tapir_ray.steps.mix import mix, pools
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.create_student import create_student
from tapir_ray.transforms.count_tokens import count_tokens
from tapir_ray.transforms.pack import pack
from tapir_ray.transforms.pack_stats import PackStats
from tests.steps.contexts import context_for, rows_of, write

ROWS, ALPHA = 300, 0.3


def pool_rows() -> list[dict[str, Any]]:
    """Returns rows of alternating pools; hard answers have 20 to 49 words, easy ones 2 to 7."""
    rows = []
    for number in range(ROWS):
        hard = number % 2 == 0
        messages = [{"role": "user", "content": f"say it {number} times"}]
        rows.append(
            {
                "instruction_id": instruction_id(messages),
                "messages": messages,
                "response": " ".join(["yes"] * (20 + number % 30 if hard else 2 + number % 6)),
                "task": "Math" if number % 3 else "Art",
                "pool": "hard" if hard else "easy",
                "status": OK,
            }
        )
    return rows


def mixed(folder: Path, unit: str) -> tuple[Context, PackStats]:
    """Returns the context after the step, and the counts of its packed training set."""
    model = str(folder / "student")
    create_student(CreateModel(), [f"say it {'yes ' * 50} times 0123456789"] * 9, model, None, 0)
    seed = write(folder / "seed.jsonl", [{"instruction": "q", "output": "a"}])
    context = context_for(folder, seed, student={"model": model}, mix={"unit": unit}, curriculum={"alpha": ALPHA})
    config, run = context.config, context.run
    scores = {"Math": {0.0: 100, 4.0: 100}, "Art": {0.0: 50, 4.0: 50}}
    stats = {
        task: TaskStats(histogram=values, judged=1, teacher_milli=9000, student_milli=5000)
        for task, values in scores.items()
    }
    plan: Plan = make_plan(1, ScoreStats(rows=ROWS, by_task=stats), config, context.taxonomy)

    def plan_mix(round_number: int, capacities: dict[tuple[str, str], tuple[int, int]]) -> Mix:
        return make_mix(plan, capacities, config, context.taxonomy)

    context.curriculum = cast(Handle, SimpleNamespace(plan_mix=plan_mix))
    rows = ray.data.from_arrow(conform(pool_rows(), TRAINING))
    rows = count_tokens(rows, model, config.student, config.train, context.transform_cpus)
    context.write(context.loop.round(1).pool, rows, "pools")
    mix(context, 1, plan)
    packed = run.path("rounds/01/packed")
    files = run.files("rounds/01/training")
    return context, pack([files], packed, run.fs, model, config.student, config.train, 0, epochs=1)


@pytest.mark.parametrize("unit", ["tokens", "pairs"])
def test_alpha_is_the_hard_share_of_the_tokens_in_the_loss(ray_local: None, tmp_path: Path, unit: str) -> None:
    context, stats = mixed(tmp_path, unit)
    training = rows_of(context, "rounds/01/training")
    pairs = Counter(row["pool"] for row in training)
    tokens = Counter[str]()
    for row in training:
        tokens[row["pool"]] += row["tokens"]
    in_loss = sum(
        int(label != IGNORED)
        for file in sorted(Path(context.run.path("rounds/01/packed")).glob("*.parquet"))
        for label in pa.chunked_array(pq.read_table(file)["labels"]).combine_chunks().flatten().to_pylist()
    )
    assert (stats.hard_tokens, stats.response_tokens) == (tokens["hard"], in_loss) == (tokens["hard"], tokens.total())
    share, pairs_share = stats.hard_tokens / stats.response_tokens, pairs["hard"] / pairs.total()
    if unit == "tokens":
        # Each pool has two cells, each within half a row of its quota.
        longest = max(row["tokens"] for row in training)
        assert abs(share - ALPHA) <= 2 * longest / stats.response_tokens
        assert pairs_share < ALPHA / 2, "the lengths differ too little to tell tokens from pairs"
    else:
        assert pairs_share == pytest.approx(ALPHA, abs=0.01)
        assert share > 2 * ALPHA


@pytest.mark.parametrize("mark", [False, True])
def test_styled_rows_are_marked_before_their_tokens_are_counted(ray_local: None, tmp_path: Path, mark: bool) -> None:
    """A round has plain seed rows, styled rows of earlier rounds and its own: each is marked by its own `style`."""
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", []), rewrite={"mark": mark})

    def row(text: str, style: str | None, **values: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        ids = {"instruction_id": instruction_id(messages), "draw_id": text, "messages": messages}
        return {**ids, "response": "r", "task": "Math", "style": style, "status": OK, **values}

    scores = {"difficulty": 3.0, "teacher_score": 9.0}
    scored = [
        row("plain seed", None, split="seed", **scores),
        row("styled seed", "In steps.", split="seed", **scores),
        row("earlier round", "In steps.", split="generated", **{**scores, "difficulty": 0.0}),
        row("held out", "In steps.", split="holdout", **scores),
    ]
    generated = [row("new", "In steps."), row("new plain", None), row("failed", "In steps.", status="failed")]
    context.run.write_rows("rounds/01/scored", conform(scored, SCORED))
    context.run.write_rows("rounds/01/generated", conform(generated, GENERATED_ROWS))
    plan = cast(Plan, SimpleNamespace(threshold=2.0, ceiling=None))
    found = {one["instruction_id"]: one for one in pools(context, 1, plan).take_all()}
    style = "\n\nIn steps." if mark else ""
    marked = {"styled seed", "earlier round", "new"}
    assert {ids: one["messages"][0]["content"] for ids, one in found.items()} == {
        one["instruction_id"]: one["draw_id"] + (style if one["draw_id"] in marked else "")
        for one in [*scored[:3], *generated[:2]]
    }
    assert Counter(one["pool"] for one in found.values()) == {"hard": 4, "easy": 1}
    assert {tuple(one) for one in found.values()} == {tuple(TRAINING.names)}
