"""A round's filters: their table is stored, and can stop the round before an answer is paid for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from tapir_ray.curriculum.plan import Plan, make_plan
from tapir_ray.curriculum.stats import table_stats
from tapir_ray.data.schemas import SCORED, conform, draw_id, instruction_id
from tapir_ray.errors import StageError
from tapir_ray.steps import generate, round_zero
from tests.data.test_contamination_index import question
from tests.steps.contexts import context_for, rows_of, write

ROWS = 40
DIFFICULTIES = {"hard": 6.0, "easy": 1.0, "unreliable": 6.0, "unscored": None}


class Asked(Exception):
    """A request for an answer."""


def refuse(*_: Any) -> None:
    raise Asked


@pytest.mark.parametrize(("alike", "error"), [(36, StageError), (12, Asked)])
def test_a_repetitive_teacher_is_not_paid_for_answers(
    alike: int, error: type[Exception], tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = write(tmp_path / "seed.jsonl", [{"instruction": question(n, 20), "output": "a"} for n in range(60)])
    context = context_for(tmp_path, seeds)
    round_zero.ingest(context)
    rows = []
    for number in range(ROWS):
        text = f"{question(1000, 30)} {number}" if number < alike else question(2000 + number, 30)
        messages = [{"role": "user", "content": text}]
        made = {"draw_id": f"{number:032x}", "instruction_id": instruction_id(messages), "messages": messages}
        rows.append({**made, "round": 1, "split": "generated", "source": "generated", "status": "ok"})
    context.run.write_rows("rounds/01/expanded", conform(rows, generate.CHECKED))
    monkeypatch.setattr(generate, "annotation", lambda _: refuse)
    plan = cast(Plan, SimpleNamespace(expand={"Math": ROWS}))
    for _ in range(2):
        with pytest.raises(error, match=rf"{alike - 1} of {ROWS} rows .*expand\.temperature" if alike > 30 else None):
            generate.generate(context, 1, plan)
    assert context.run.manifest("rounds/01/checked").reasons == {"near_duplicate": alike - 1}
    assert len(rows_of(context, "rounds/01/checked")) == ROWS
    assert context.run.done("rounds/01/generated") is None
    assert [event["reason"] for event in context.run.events("filter_share")] == ["near_duplicate"]


def scored_rows(count: int = 5) -> list[dict[str, Any]]:
    """Returns rows of each kind of DIFFICULTIES; `source` is the kind."""
    rows = []
    for kind, difficulty in DIFFICULTIES.items():
        for number in range(count):
            messages = [{"role": "user", "content": f"{kind} {number}"}]
            row = {"instruction_id": instruction_id(messages), "messages": messages, "response": "a", "task": "Math"}
            row |= {"difficulty": difficulty, "teacher_score": 2.0 if kind == "unreliable" else 9.0}
            rows.append({**row, "split": "seed", "status": "ok", "source": kind})
    return rows


def drawn(
    folder: Path, sources: dict[str, float], size: int, select: str = "hard", examples: int = 1, backwards: bool = False
) -> list[dict[str, Any]]:
    """Returns the draws of round 1 from `scored_rows`; `source` is the kind of the row that each is from."""
    folder.mkdir(exist_ok=True)
    context = context_for(
        folder,
        write(folder / "seed.jsonl", []),
        expand={"size": size, "sources": sources, "examples": examples},
        curriculum={"difficulty": {"select": select}, "weights": {"Math": 1.0}},
    )
    table = conform(scored_rows()[:: -1 if backwards else 1], SCORED)
    context.run.write_rows(context.loop.round(1).scored, table)
    plan = make_plan(1, table_stats(table, 4.0), context.config, context.taxonomy)
    return generate.draws(context, 1, plan).take_all()


def test_examples_are_other_rows_of_the_pool_and_the_same_for_any_order(ray_local: None, tmp_path: Path) -> None:
    """Cells have 5 hard rows and 10 easy ones, so a hard draw that wants 7 others shows all 4 that there are."""
    shares = {"hard": 0.5, "random": 0.5}
    rows = drawn(tmp_path / "a", shares, 30, examples=8)
    kind = {row["instruction_id"]: row["source"] for row in scored_rows()}
    text = {row["instruction_id"]: row["messages"][0]["content"] for row in scored_rows()}
    pools = {"hard": {"hard"}, "easy": {"easy", "unscored"}}
    for row in rows:
        ids = row["example_ids"]
        assert len(set(ids)) == len(ids) == (4 if row["pool"] == "hard" else 7) and row["parent_id"] not in ids
        assert {kind[one] for one in ids} <= pools[row["pool"]]
        assert row["examples"] == [text[one] for one in ids]
    assert len({tuple(row["example_ids"]) for row in rows if row["pool"] == "hard"}) > 1
    again = {
        row["draw_id"]: row["example_ids"] for row in drawn(tmp_path / "b", shares, 30, examples=8, backwards=True)
    }
    assert again == {row["draw_id"]: row["example_ids"] for row in rows}


def test_every_source_draws_from_its_rows_and_no_draw_has_the_id_of_another(ray_local: None, tmp_path: Path) -> None:
    """Random draws take all 15 usable rows twice, so they share parents with both other sources."""
    rows = drawn(tmp_path / "all", {"hard": 0.2, "easy": 0.2, "random": 0.6}, 50)
    assert len({row["draw_id"] for row in rows}) == len(rows) == 50
    kinds = Counter((row["source"], row["pool"]) for row in rows)
    assert kinds == {("hard", "hard"): 10 + 10, ("easy", "easy"): 10 + 10, ("unscored", "easy"): 10}
    alone = drawn(tmp_path / "hard", {"hard": 1.0}, 10)
    assert {row["draw_id"] for row in alone} < {row["draw_id"] for row in rows}, "ids of hard draws stay"
    assert {row["draw_id"] for row in alone} == {
        draw_id(1, row["instruction_id"], copy) for row in scored_rows() if row["source"] == "hard" for copy in (0, 1)
    }
    assert {row["pool"] for row in alone} == {"hard"}


@pytest.mark.parametrize("source", ["hard", "random"])
def test_without_a_selection_unscored_rows_are_drawn_as_hard(ray_local: None, tmp_path: Path, source: str) -> None:
    rows = drawn(tmp_path, {source: 1.0}, 15, select="none")
    assert Counter((row["source"], row["pool"]) for row in rows) == {
        ("hard", "hard"): 5, ("easy", "hard"): 5, ("unscored", "hard"): 5,
    }  # fmt: skip


def test_a_draw_does_not_inherit_the_style_of_its_parent() -> None:
    """A hard row of an earlier round has a styled answer; a plain answer to its expansion would be marked."""
    parent = {"instruction_id": "p", "task": "Math", "style": "In steps.", "response": "r", "status": "ok"}
    rows = conform([parent], SCORED).append_column("copy", pa.array([0])).append_column("pool", pa.array(["hard"]))
    (draw,) = generate.as_draws(rows, 2).to_pylist()
    assert (draw["parent_id"], draw["response"], draw["style"]) == ("p", None, None)
