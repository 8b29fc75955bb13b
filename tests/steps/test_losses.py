"""The scoring step with a measure of losses: neither engine nor judge is started, and a restart repeats no block."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray.data

from tapir_ray.config import CreateModel
from tapir_ray.config.engines import MODEL_KEYS, EngineSpec
from tapir_ray.curriculum.measures import Column, load_measure, measure
from tapir_ray.curriculum.plan import make_plan
from tapir_ray.curriculum.stats import score_stats
from tapir_ray.data.schemas import HOLDOUT, ID, SEED, conform
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.engine.base import Engine, StudentWork
from tapir_ray.run import blocks
from tapir_ray.steps import score
from tapir_ray.steps.context import Context
from tapir_ray.steps.losses import LOSS_TABLE, losses_before
from tapir_ray.train.chat import encode_pair, load_tokenizer
from tapir_ray.train.create_student import create_student
from tapir_ray.train.weights import load_student
from tests.steps.contexts import rows_of
from tests.steps.test_score import HELD, ROWS, run_of, scored
from tests.transforms.test_losses import by_hand

pytestmark = pytest.mark.slow

SPEC = f"{__name__}:ratio"


@measure(losses=True)
def ratio(rows: pa.Table) -> Column:
    """Returns the loss of the response given its conversation, divided by its loss alone."""
    return pc.divide(rows["response_loss"], rows["response_loss_alone"])


@measure(answers=True, losses=True)
def ratio_of_answered(rows: pa.Table) -> Column:
    """Returns `ratio` for the rows that the student has answered."""
    answered = pc.is_valid(rows["student_response"])
    return pc.if_else(answered, pc.divide(rows["response_loss"], rows["response_loss_alone"]), None)


class NoEngine(Engine):
    """A local student's engine that fails the test if it is asked."""

    spec: ClassVar[EngineSpec] = EngineSpec(f"{__name__}:NoEngine", MODEL_KEYS, local=True, paid=False, student=True)

    @classmethod
    def client(cls, *args: Any, **kwargs: Any) -> Client:
        raise AssertionError("the engine was asked")

    @staticmethod
    def generate(rows: ray.data.Dataset, work: StudentWork) -> ray.data.Dataset:
        raise AssertionError("the engine was started")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an untrained student whose losses differ much between rows."""
    folder = str(tmp_path_factory.mktemp("model") / "student")
    create = CreateModel(
        hidden_size=64, intermediate_size=128, layers=2, heads=2, vocab_size=512, max_length=64, initializer_range=0.5
    )
    create_student(create, ["What is two plus two? It is 4."] * 9, folder, None, 0)
    return folder


def context_of(folder: Path, model: str, spec: str = SPEC, engine: str = f"{__name__}:NoEngine") -> Context:
    """Returns a run whose roles are not open: a request to any of them would raise."""
    difficulty = {"measure": spec, "top_fraction": 0.5}
    return run_of(
        folder,
        model,
        "ratio",
        student={"engine": engine, "dtype": "float32"},
        curriculum={"rounds": 1, "tasks": "seed", "difficulty": difficulty},
        expand={"size": 4},
        resources={"transform_cpus": 0.1, "rows_per_block": 3, "student": {"cpus": 1}},
    )


def test_a_measure_of_losses_starts_neither_engine_nor_judge(ray_local: None, tmp_path: Path, model: str) -> None:
    context = context_of(tmp_path, model)
    rows = scored(context)
    tokenizer = load_tokenizer(model, context.config.student)
    loaded = load_student(model, context.config.student).eval()
    for row in rows:
        assert row["student_response"] is None
        if row["split"] == HOLDOUT:
            assert row["response_loss"] is row["response_loss_alone"] is row["difficulty"] is None
            continue
        prompt, answer = encode_pair(tokenizer, row["messages"], row["response"], {})
        assert row["response_loss"] == pytest.approx(by_hand(loaded, prompt, answer), abs=1e-5)
        assert row["response_loss_alone"] == pytest.approx(by_hand(loaded, [tokenizer.eos_token_id], answer), abs=1e-5)
        assert row["difficulty"] == round(row["response_loss"] / row["response_loss_alone"], 2)
    table = context.loop.round(1).scored
    assert not context.run.exists(f"{table}-{LOSS_TABLE}") and not context.run.exists("processes")

    stats = score_stats(context.map(context.read(table), score.without_holdout), 4.0)
    plan = make_plan(1, stats, context.config, context.taxonomy)
    ratios = sorted(row["difficulty"] for row in rows if row["split"] == SEED)
    assert ratios[0] < plan.threshold <= ratios[-1] and plan.hard + plan.easy == len(ratios) == ROWS - HELD
    assert plan.hard == sum(value >= plan.threshold for value in ratios)


def test_a_restart_computes_only_the_losses_that_are_missing(ray_local: None, tmp_path: Path, model: str) -> None:
    """Two blocks of an earlier attempt have losses that no model gives."""
    context = context_of(tmp_path, model)
    table = context.loop.round(1).scored.working(LOSS_TABLE)
    found = [row for row in rows_of(context, context.loop.instructions) if row["split"] == SEED][:5]
    before = conform([{**row, "response_loss": 123.0, "response_loss_alone": 2.0} for row in found], table.row_schema)
    context.run.fs.create_dir(context.run.path(table.path), recursive=True)
    for part in (before[:3], before[3:]):
        blocks.write_block(part, context.run.path(table.path), context.run.fs, ID)
    rows = scored(context)
    kept = {row["instruction_id"] for row in found}
    for row in rows:
        assert (row["response_loss"] == 123.0) == (row["instruction_id"] in kept)
        assert (row["difficulty"] is None) == (row["split"] == HOLDOUT)


def test_a_restart_after_the_losses_loads_no_student(ray_local: None, tmp_path: Path, model: str) -> None:
    """The finished losses are also those of the rows that are scored only now."""
    folder = shutil.copytree(model, tmp_path / "student")
    context = context_of(tmp_path, str(folder))
    table, candidates = context.loop.round(1).scored, context.loop.round(1).candidates
    assert load_measure(SPEC).schema == table.row_schema
    score.select_candidates(context, 1, candidates)
    first = context.remaining(table, context.read(candidates))
    losses_before(context, first, str(folder), table, ROWS)
    measured = rows_of(context, table.working(LOSS_TABLE))
    losses = {row["instruction_id"]: row["response_loss"] for row in measured}
    shutil.rmtree(folder)
    done = [{**row, "difficulty": 0.5, "times_trained": 0} for row in measured[:4]]
    write = functools.partial(blocks.write_block, folder=context.run.path(table.path), fs=context.run.fs, key=ID)
    context.run.fs.create_dir(context.run.path(table.path), recursive=True)
    write(conform(done, table.row_schema))
    score.score(context, 1)
    rows = rows_of(context, table)
    assert len(rows) == ROWS and {row["instruction_id"]: row["response_loss"] for row in rows} == losses
    assert not context.run.exists(f"{table}-{LOSS_TABLE}")


@pytest.mark.timeout(900)
def test_the_losses_of_rows_that_the_student_also_answers(ray_local: None, tmp_path: Path, model: str) -> None:
    """The engine of vLLM starts after the losses; its answers keep their columns."""
    context = context_of(tmp_path, model, f"{__name__}:ratio_of_answered", "vllm")
    for row in scored(context):
        assert row["student_response"] is not None and row["finish_reason"] in ("stop", "length")
        assert (row["response_loss"] is None) == (row["difficulty"] is None) == (row["split"] == HOLDOUT)
    started = [event["table"] for event in context.run.events("table")]
    table = context.loop.round(1).scored
    assert started.index(f"{table}-{LOSS_TABLE}") < started.index(table.path)
