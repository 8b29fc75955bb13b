"""Candidates of a round: rows that no training set had, and the probes of the round before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from tapir_ray.config import parse
from tapir_ray.curriculum import tasks
from tapir_ray.data.schemas import (
    GENERATED_ROWS,
    HOLDOUT,
    INSTRUCTIONS,
    SEED,
    TRAINING,
    conform,
    draw_id,
    in_share,
    instruction_id,
)
from tapir_ray.errors import InputError, StageError
from tapir_ray.steps import score, train
from tapir_ray.steps.context import Context
from tests.steps.contexts import context_for, rows_of, write

SEEDS, HELD, NEW = 20, 4, 12


def row(name: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": name}]
    row_id = instruction_id(messages)
    return {"instruction_id": row_id, "messages": messages, "response": "a", "task": "Math", "status": "ok", **more}


def ids(rows: list[dict[str, Any]]) -> set[str]:
    return {one["instruction_id"] for one in rows}


SEED_ROWS = [row(f"seed {n}", split=HOLDOUT if n < HELD else SEED) for n in range(SEEDS)]
NEW_ROWS = [row(f"new {n}", split="generated", draw_id=draw_id(1, "parent", n), round=1) for n in range(NEW)]


def after_round_1(folder: Path, **sections: Any) -> Context:
    """Returns a run with seed rows 4 to 9 in the initial SFT; seed rows 10 to 12 and the new rows that are no probes
    in round 1."""
    sections = {"curriculum": {"rounds": 2, "tasks": "seed"}, "holdout": {"rows": HELD}, **sections}
    context = context_for(folder, write(folder / "seed.jsonl", []), **sections)
    context.taxonomy = context.taxonomy.with_seed_counts({"Math": 1})
    run, loop, config = context.run, context.loop, context.config
    share = config.expand.probe_share
    trained = [one for one in NEW_ROWS if not in_share(one["draw_id"], config.random_seed, share, "probe")]
    run.write_rows(loop.instructions, conform(SEED_ROWS, INSTRUCTIONS))
    run.write_rows(loop.round(1).generated, conform(NEW_ROWS, GENERATED_ROWS))
    run.write_rows(loop.training(0), conform(SEED_ROWS[4:10], TRAINING))
    run.write_rows(loop.training(1), conform([*SEED_ROWS[10:13], *trained], TRAINING))
    return context


def candidates(context: Context) -> list[dict[str, Any]]:
    table = context.loop.round(2).candidates
    score.select_candidates(context, 2, table)
    return rows_of(context, table)


def test_unseen_candidates_were_in_no_training_set(ray_local: None, tmp_path: Path) -> None:
    context = after_round_1(tmp_path, score={"candidates": "unseen"}, expand={"probe_share": 0.5})
    probes = [one for one in NEW_ROWS if in_share(one["draw_id"], 0, 0.5, "probe")]
    assert 0 < len(probes) < NEW, "the test needs both kinds of rows"
    found = candidates(context)
    assert ids(found) == ids(SEED_ROWS[:HELD]) | ids(SEED_ROWS[13:]) | ids(probes)
    assert len(found) == HELD + (SEEDS - 13) + len(probes)
    assert {one["split"] for one in found if one["instruction_id"] in ids(SEED_ROWS[:HELD])} == {HOLDOUT}


def test_probes_are_scored_even_if_few_rows_are(ray_local: None, tmp_path: Path) -> None:
    """Of 28 rows 6 are scored. Drawn like others, hardly all probes would be among them."""
    context = after_round_1(tmp_path, score={"max_rows": 6}, expand={"probe_share": 0.4})
    probes = [one for one in NEW_ROWS if in_share(one["draw_id"], 0, 0.4, "probe")]
    assert 2 <= len(probes) <= 6
    found = candidates(context)
    assert ids(probes) <= ids(found) and len(found) == HELD + 6


def test_no_unseen_row_stops_with_the_keys_to_change(ray_local: None, tmp_path: Path) -> None:
    context = after_round_1(tmp_path, score={"candidates": "unseen"}, train={"initial_share": 0.5})
    context.run.write_rows(context.loop.training(0), conform(SEED_ROWS[4:], TRAINING))
    with pytest.raises(StageError, match=r"round 2: .* unseen leaves no candidate.*28 that were trained on: set train"):
        candidates(context)


def test_probes_of_a_task_come_first_and_the_weights_hold() -> None:
    """Weights of 0.75 : 0.25 give 30 and 10 of 40 rows, whatever the share of the probes."""
    curriculum = {"weights": {"Math": 0.75, "Art": 0.25}}
    base = {"name": "x", "student": {"model": "m"}, "seed_data": {"path": "a"}, "curriculum": curriculum}
    taxonomy = tasks.load(parse(base).curriculum)
    found = {("probe", "Math"): (9, 9), ("probe", "Art"): (50, 50), ("candidate", "Math"): (90, 90)}
    assert score.candidate_quota(found, 40, taxonomy) == {
        ("probe", "Math"): 9, ("candidate", "Math"): 21, ("probe", "Art"): 10, ("candidate", "Art"): 0,
    }  # fmt: skip
    without = {("candidate", "Math"): (90, 90), ("candidate", "Art"): (5, 5), ("candidate", "Law"): (5, 5)}
    assert score.candidate_quota(without, 40, taxonomy) == {("candidate", "Math"): 35, ("candidate", "Art"): 5}


@pytest.mark.parametrize("blocks", [1, 7])
def test_the_initial_share_is_the_same_in_every_start(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    """The rows are stored in one file, or in seven and in another order."""
    monkeypatch.setattr(train, "fit", lambda *_: None)
    monkeypatch.setattr(train, "packed_holdout", lambda *_: None)
    context = context_for(
        tmp_path, write(tmp_path / "seed.jsonl", []), train={"initial_sft": "on", "initial_share": 0.6}, random_seed=3
    )
    rows = [row(f"seed {n}", split=SEED) for n in range(200)]
    table = context.loop.ingested
    context.run.fs.create_dir(context.run.path(table.path), recursive=True)
    for block in range(blocks):
        part = conform(rows[block::blocks][:: -1 if blocks > 1 else 1], INSTRUCTIONS)
        pq.write_table(part, context.run.path(f"{table}/rows-{block}.parquet"))
    context.run.publish(table)
    train.initial_sft(context, table)
    trained = ids(rows_of(context, context.loop.training(0)))
    assert trained == {row_id for row_id in ids(rows) if in_share(row_id, 3, 0.6, "initial_sft")}
    assert 100 < len(trained) < 140, "0.6 of 200"


def test_an_initial_sft_that_leaves_nothing_unseen_does_not_begin(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is decided by the student's files, after the config was accepted."""
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", []), score={"candidates": "unseen"})
    monkeypatch.setattr(train, "brings_template", lambda *_: False)
    with pytest.raises(InputError, match=r"set train\.initial_share below 1"):
        train.initial_sft(context, context.loop.ingested)
    monkeypatch.setattr(train, "brings_template", lambda *_: True)
    train.initial_sft(context, context.loop.ingested)
    assert train.student_after(context, 0) == "m"


def test_a_share_without_a_row_names_its_key(ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_for(
        tmp_path, write(tmp_path / "seed.jsonl", []), train={"initial_sft": "on", "initial_share": 1e-9}
    )
    context.run.write_rows(context.loop.ingested, conform(SEED_ROWS, INSTRUCTIONS))
    monkeypatch.setattr(train, "fit", cast(Any, None))
    with pytest.raises(InputError, match=r"train\.initial_share 1e-09 has no seed row"):
        train.initial_sft(context, context.loop.ingested)
    assert context.run.done(context.loop.training(0)) is None
