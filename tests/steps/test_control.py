"""The control: as many tokens as the curriculum, no repeat before all rows were used, and its gain in the events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import ray.data

from tapir_ray.config import CreateModel
from tapir_ray.config.engines import EngineSpec
from tapir_ray.data.schemas import (
    GENERATED_ROWS,
    HOLDOUT,
    INSTRUCTIONS,
    OK,
    SCORED,
    SEED,
    TRAINING,
    conform,
    instruction_id,
)
from tapir_ray.errors import StageError
from tapir_ray.llm.asker import Row
from tapir_ray.llm.engine.base import Engine, StudentWork
from tapir_ray.report.control_entry import control_entry
from tapir_ray.steps import control
from tapir_ray.steps.context import Context
from tapir_ray.steps.train import student_after, train
from tapir_ray.train.create_student import create_student
from tests.llm.endpoint import running
from tests.steps.contexts import context_for, rows_of, write
from tests.transforms.test_pack_stats import WHOLE

SIZE = CreateModel(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocab_size=512, max_length=64)
ROWS, LONG = 60, 7
"""Seed rows, and the number of the one that does not fit a sequence."""


def seed_rows() -> list[dict[str, Any]]:
    rows = []
    for number in range(ROWS + 8):
        messages = [{"role": "user", "content": f"Say {'a ' * (200 if number == LONG else number % 5)}{number}."}]
        row = {"instruction_id": instruction_id(messages), "messages": messages, "response": f"{number} one two"}
        split = HOLDOUT if number >= ROWS else SEED
        rows.append({**row, "split": split, "task": "Math" if number % 3 else None, "status": OK})
    return rows


def context_of(folder: Path, **sections: Any) -> Context:
    """Returns a run of three rounds with seed data and a student without an initial SFT."""
    base = str(folder / "base")
    create_student(SIZE, ["Say one two three."] * 20, base, None, 0)
    sections = {"student": {"model": base, "max_model_len": 64}, "control": "sft", **sections}
    training = {"sequence_length": 64, "global_batch_size": 4, "precision": "float32", "learning_rate": 1e-2}
    context = context_for(
        folder,
        write(folder / "seed.jsonl", [{"instruction": "unused", "output": "unused"}]),
        **{**sections, "train": {"initial_sft": "off", **training, **sections.get("train", {})}},
    )
    context.run.write_rows("seed/instructions", conform(seed_rows(), INSTRUCTIONS))
    context.run.publish("checkpoints/00", extra={"model": base})
    return context


def drawn(context: Context, round_number: int, tokens: int) -> tuple[Counter[str], int]:
    """Returns the rows of a round's draw by id, with their tokens, if the curriculum packs `tokens`."""
    context.run.publish(f"rounds/{round_number:02d}/packed", extra=asdict(replace(WHOLE, tokens=tokens)))
    control._draw(context, round_number)
    rows = rows_of(context, f"control/sft/{round_number:02d}/training")
    assert len({row["pair_id"] for row in rows}) == len(rows)
    sizes = {row["instruction_id"]: row["size"] for row in rows_of(context, "control/pool")}
    ids = Counter(row["instruction_id"] for row in rows)
    return ids, sum(sizes[row_id] * count for row_id, count in ids.items())


def test_the_rounds_take_the_seed_rows_one_after_the_other(tmp_path: Path, ray_local: None) -> None:
    """A draw of its own in every round would repeat rows while others were never used."""
    context = context_of(tmp_path)
    control._pool(context)
    pool = rows_of(context, "control/pool")
    usable = {row["instruction_id"]: row["size"] for row in pool if row["status"] == OK}
    assert [row["reason"] for row in pool if row["status"] != OK] == ["over_length"]
    assert len(usable) == ROWS - 1, "the holdout and the long row are not trained on"
    whole, longest = sum(usable.values()), max(usable.values())
    used: Counter[str] = Counter()
    for number, tokens in enumerate((whole // 3, whole // 2, 2 * whole + whole // 4), start=1):
        ids, found = drawn(context, number, tokens)
        assert abs(found - tokens) <= longest
        used += ids
        assert max(used.values()) - min(used[row_id] for row_id in usable) <= 1
    assert set(used) == set(usable) and max(used.values()) > 2
    assert {row["task"] for row in rows_of(context, "control/sft/03/training")} == {"Math", None}
    again = rows_of(context, "control/sft/02/training")
    control._draw(context, 2)
    assert rows_of(context, "control/sft/02/training") == again, "a killed run draws the same rows"


def test_a_student_that_begins_at_the_base_again_has_used_no_row(tmp_path: Path, ray_local: None) -> None:
    context = context_of(tmp_path, train={"init_from": "base"})
    assert drawn(context, 1, 300) == drawn(context, 2, 300)


def test_seed_data_without_a_usable_row_is_an_error(tmp_path: Path, ray_local: None) -> None:
    context = context_of(tmp_path)
    context.run.write_rows("seed/instructions", conform([{**seed_rows()[LONG], "task": "Math"}], INSTRUCTIONS))
    with pytest.raises(StageError, match="no seed row can be trained on; see the reasons in control/pool"):
        drawn(context, 1, 100)


def test_new_pairs_come_first_and_seed_rows_fill_up(tmp_path: Path, ray_local: None) -> None:
    """New pairs with more tokens than the round has are drawn in part; the seed rows then wait for the next round."""
    context = context_of(tmp_path, control="random")
    for number in (1, 2, 3):
        rows = []
        for at in range(12):
            messages = [{"role": "user", "content": f"Tell {number} {at}."}]
            made = {"instruction_id": instruction_id(messages), "messages": messages, "response": "one two three"}
            rows.append({**made, "draw_id": f"{number}-{at}", "status": "filtered" if at == 5 else OK, "task": "Math"})
        context.run.write_rows(f"control/random/{number:02d}/generated", conform(rows, GENERATED_ROWS))

    def of_round(number: int, tokens: int) -> tuple[set[str], set[str], int]:
        context.run.publish(f"rounds/{number:02d}/packed", extra=asdict(replace(WHOLE, tokens=tokens)))
        control._draw(context, number)
        rows = rows_of(context, f"control/random/{number:02d}/training")
        tables = ("control/pool", f"control/random/{number:02d}/new")
        sizes = {row["instruction_id"]: row["size"] for table in tables for row in rows_of(context, table)}
        pools = {pool: {row["instruction_id"] for row in rows if row["pool"] == pool} for pool in ("generated", "seed")}
        assert len(rows) == sum(map(len, pools.values())), "none is repeated"
        return pools["generated"], pools["seed"], sum(sizes[row["instruction_id"]] for row in rows)

    first, seeds, found = of_round(1, 500)
    assert len(first) == 11 and seeds and abs(found - 500) <= 30
    part, none, found = of_round(2, 100)
    assert 0 < len(part) < 11 and none == set() and abs(found - 100) <= 30
    third, others, found = of_round(3, 500)
    assert len(third) == 11 and others and not others & seeds and abs(found - 500) <= 30


@pytest.mark.slow
def test_random_seed_rows_are_expanded_and_answered(tmp_path: Path, ray_local: None) -> None:
    """The holdout is never expanded, every draw has its row, and what the round before has is a near-duplicate."""

    def teacher(body: dict[str, Any], attempt: int) -> str:
        text = body["messages"][-1]["content"]
        words = "one two three four five six seven eight nine ten eleven twelve"
        return f"<new_instruction>Write {words}.</new_instruction>" if "new_instruction" in text else "an answer"

    with running(teacher) as endpoint:
        context = context_of(
            tmp_path,
            control="random",
            teacher={"model": "t", "base_url": endpoint.url, "api_key_env": None},
            expand={"size": 20, "examples": 3},
            filter={"common_ngram_rows": None, "max_share": 1.0, "warn_share": 1.0},
        )
        held = {row["instruction_id"] for row in seed_rows() if row["split"] == HOLDOUT}
        parents = []
        with context.roles:
            for number in (1, 2):
                context.run.publish(f"rounds/{number:02d}/packed", extra=asdict(replace(WHOLE, tokens=300)))
                control._draw(context, number)
                rows = rows_of(context, f"control/random/{number:02d}/generated")
                assert len(rows) == 20 and len({row["draw_id"] for row in rows}) == 20
                assert {row["pool"] for row in rows} == {None}
                shown = [row["example_ids"] for row in rows]
                assert all(len({row["parent_id"], *ids} - held) == 3 for row, ids in zip(rows, shown, strict=True))
                parents.append({row["parent_id"] for row in rows})
    assert not (parents[0] | parents[1]) & held and parents[0] != parents[1]
    first, second = (rows_of(context, f"control/random/{number}/generated") for number in ("01", "02"))
    again = [row["reason"].partition(":")[0] for row in first if row["status"] != OK]
    assert again == ["duplicate"] * 19, "the teacher writes one instruction, in one spelling"
    assert [row["response"] for row in first if row["status"] == OK] == ["an answer"]
    assert {row["reason"].partition(":")[0] for row in second} <= {"duplicate", "near_duplicate"}
    assert not [row for row in second if row["status"] == OK]


def scored(context: Context, table: str, values: dict[str, float]) -> None:
    row = {"split": HOLDOUT, "task": "Math", "status": OK}
    rows = [{**row, "instruction_id": name, "student_score": value} for name, value in values.items()]
    context.run.write_rows(table, conform(rows, SCORED))


def gains(context: Context) -> list[tuple[int, float, int]]:
    return [(event["round"], event["gain"], event["gain_rows"]) for event in context.run.events("control_gain")]


def test_the_gain_is_logged_once_and_again_if_a_score_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_of(tmp_path, curriculum={"rounds": 2})
    scored(context, "control/sft/01/holdout", {"a": 3.0, "b": 5.0, "c": 5.0})
    control.compare(context)
    assert gains(context) == [], "the student of round 1 is scored in round 2"
    scored(context, "rounds/02/scored", {"a": 3.5, "b": 5.5, "d": 9.0})
    for _ in range(2):
        control.compare(context)
    assert gains(context) == [(1, 0.5, 2)]
    said = capsys.readouterr().err
    assert "round 1: curriculum +0.50 [+0.50, +0.50] over plain SFT (2 rows, without 2 that one of them lacks)" in said
    assert said.count("the curriculum paid") == 1
    scored(context, "rounds/02/scored", {"a": 2.5, "b": 4.5})
    scored(context, "control/sft/02/holdout", {"a": 1.0, "b": 2.0})
    scored(context, "evaluation/holdout", {"a": 1.0, "b": 2.0})
    control.compare(context)
    assert gains(context)[1:] == [(1, -0.5, 2), (2, 0.0, 2)]
    said = capsys.readouterr().err
    assert "curriculum -0.50 [-0.50, -0.50] over plain SFT" in said and "plain SFT is better" in said
    assert "no difference is shown" in said


def test_without_a_control_nothing_is_made(tmp_path: Path) -> None:
    context = context_of(tmp_path, control="none")
    control.control(context, 1)
    control.compare(context)
    assert not context.run.exists("control") and context.run.events("control_gain") == []


class Pupil(Engine):
    """A student's engine that answers with the path of its model."""

    spec = EngineSpec("pupil", (), local=True, paid=False, student=True)

    @classmethod
    def client(cls, *_: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def generate(rows: ray.data.Dataset, work: StudentWork) -> ray.data.Dataset:
        return rows.map(answered, fn_kwargs={"model": work.model}, num_cpus=work.transform_cpus)


def answered(row: Row, model: str) -> Row:
    return {**row, "student_response": model, "finish_reason": "stop"}


def judge(body: dict[str, Any], attempt: int) -> str:
    """Scores the control 4, every other student 6."""
    return f"Fine.\nScores: 8 {4 if 'control/sft' in body['messages'][-1]['content'] else 6}"


@contextmanager
def judged(folder: Path) -> Iterator[Context]:
    """Opens a run of one round whose curriculum has its training set; the judge scores the students by their folder."""
    with running(judge) as endpoint:
        context = context_of(
            folder,
            student={"model": str(folder / "base"), "max_model_len": 64, "engine": f"{__name__}:Pupil"},
            teacher={"model": "judge", "base_url": endpoint.url, "api_key_env": None},
            judge={"both_orders": False, "repeat_share": 0.0},
            curriculum={"rounds": 1},
            train={"epochs": 2},
        )
        rows = [{**row, "pair_id": row["instruction_id"], "pool": "hard"} for row in seed_rows()[:20]]
        context.run.write_rows("rounds/01/training", conform(rows, TRAINING))
        with context.roles:
            yield context


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_control_continues_and_trains_on_as_many_tokens(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control starts from the curriculum's own start, and is judged on the same rows."""
    with judged(tmp_path) as context:
        run = context.run
        train(context, 1)
        scored(context, "evaluation/holdout", {row["instruction_id"]: 6.0 for row in seed_rows()[ROWS:]})

        def stopped(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(control, "fit", stopped)
            with pytest.raises(KeyboardInterrupt):
                control.control(context, 1)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/control").rglob("*.parquet")}
        control.control(context, 1)
        assert before and {path: path.stat().st_mtime_ns for path in before} == before
        control.compare(context)
        control.control(context, 1)
        entry = control_entry(context, 1)
    assert entry is not None and entry["warnings"] == []
    packed = [run.manifest(f"{folder}/packed").extra["tokens"] for folder in ("rounds/01", "control/sft/01")]
    assert (entry["curriculum_tokens"], entry["tokens"]) == tuple(packed)
    assert abs(packed[0] - packed[1]) <= 64, "within one sequence"
    assert entry["gain"] == {"mean": 2.0, "low": 2.0, "high": 2.0, "rows": 8, "left_out": 0}
    assert (entry["student_score"]["mean"], entry["curriculum_score"]["mean"]) == (4.0, 6.0)
    assert gains(context) == [(1, 2.0, 8)]
    first = [run.read_json(f"{folder}/train_result.json")["holdout_losses"][0]
             for folder in ("checkpoints/01", "control/sft/01/checkpoint")]  # fmt: skip
    assert first[0] == pytest.approx(first[1]) and entry["holdout_loss"] < first[1][1]
    steps = [event for event in run.all_events() if event["event"] == "stage" and event["stage"] == "control"]
    assert len(steps) == 1 and not run.children("ray_train")
    assert student_after(context, 1).endswith("checkpoints/01")
