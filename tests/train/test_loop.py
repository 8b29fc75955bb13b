"""The steps of a training in this process, with a plain engine in place of DeepSpeed's."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed
from transformers import LlamaConfig, LlamaForCausalLM

from tapir_ray.config import Student, Train
from tapir_ray.data.schemas import PACKED, conform
from tapir_ray.train import loop
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.checkpoint import Done
from tapir_ray.train.divergence import Diverged
from tapir_ray.train.work import Work

CPU = torch.device("cpu")
STEPS = 6


class Plain:
    """A plain engine with the interface of DeepSpeed's; its weights are broken in step `bad` (from 1)."""

    def __init__(self, bad: int | None = None, dropout: float = 0.0) -> None:
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=20, max_position_embeddings=16, attention_dropout=dropout, **sizes)
        self.module = LlamaForCausalLM(config)
        self.optimizer = torch.optim.AdamW(self.module.parameters())
        self.bad, self.steps, self.skipped_steps = bad, 0, 0
        self.eval, self.train = self.module.eval, self.module.train

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        if self.steps == self.bad:
            torch.nn.init.constant_(self.module.lm_head.weight, math.nan)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """A training of 6 steps in a process group of one."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(2 * STEPS):
        ids = rng.integers(0, 20, 8).tolist()
        labels = [IGNORED] * 3 + ids[3:]
        packed = {"input_ids": ids, "labels": labels, "position_ids": list(range(8))}
        rows.append({"seq_index": number, "pair_ids": [f"pair-{number}"], **packed})
    (tmp_path / "packed").mkdir()
    pq.write_table(conform(rows, PACKED), tmp_path / "packed/packed-000-000000.parquet")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield Work(
        packed_dir=str(tmp_path / "packed"),
        holdout_dir=None,
        storage_dir=str(tmp_path / "ray_train"),
        fs=pafs.LocalFileSystem(),
        init_model="base",
        base_model=None,
        student=Student(model="base"),
        train=Train(global_batch_size=2, micro_batch_size=2, checkpoint_steps=2),
        learning_rate=1e-3,
        epochs=1,
        random_seed=0,
        progress=None,
    )
    distributed.destroy_process_group()
    torch.set_num_threads(threads)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps after which a checkpoint was saved."""
    steps: list[int] = []
    monkeypatch.setattr(loop, "save", lambda engine, done: steps.append(len(done.losses)))
    return steps


@pytest.mark.parametrize(
    ("bad", "seen", "what", "good", "kept"),
    [
        (3, 4, "the loss is nan", 2, [2]),
        (4, 4, "the {} is nan", 3, [2]),
        (6, 6, "the {} is nan", 5, [2, 4]),
    ],
)
@pytest.mark.parametrize("held", [True, False])
def test_broken_weights_are_neither_saved_nor_exported(
    work: Work, saved: list[int], held: bool, bad: int, seen: int, what: str, good: int, kept: list[int]
) -> None:
    """The loss of a step is that of the weights before it, so the weights of a checkpoint and of the last step are
    checked apart."""
    if held:
        work = replace(work, holdout_dir=work.packed_dir)
    with pytest.raises(Diverged) as error:
        loop._train(Plain(bad), CPU, work, Done())
    reason = what.format("holdout loss" if held else "loss after the update")
    assert str(error.value).startswith(f"{reason} at step {seen} of 6 ")
    assert str(error.value).endswith(f"pairs are pair-{2 * seen - 2}, pair-{2 * seen - 1}")
    assert (error.value.good, saved) == (good, kept)


def test_a_lasting_rise_of_the_loss_ends_the_training(work: Work, saved: list[int]) -> None:
    """The steps are far too large. Without `max_loss_rise` the training continues to its end."""
    far = replace(work, learning_rate=1.0)

    def trained(most: float | None) -> int:
        train = far.train.model_copy(update={"max_loss_rise": most})
        return len(loop._train(Plain(), CPU, replace(far, train=train), Done())["losses"])

    assert trained(None) == STEPS
    with pytest.raises(Diverged, match=r"the loss rose .* train\.max_loss_rise 0\.1 at step \d of 6 ") as error:
        trained(0.1)
    assert error.value.good < STEPS and "the step's pairs are pair-" in str(error.value)


def test_a_model_broken_from_the_start_is_named_before_the_first_step(work: Work) -> None:
    engine = Plain()
    torch.nn.init.constant_(engine.module.lm_head.weight, math.nan)
    with pytest.raises(Diverged, match=r"before the first step: train another student\.model than base"):
        loop._train(engine, CPU, replace(work, holdout_dir=work.packed_dir), Done())
    assert engine.steps == 0


def test_a_continued_training_starts_now_and_adds_the_earlier_seconds(work: Work, saved: list[int]) -> None:
    """Its start was once set before the call that continued it, by the earlier seconds."""
    called = time.time()
    result = loop._train(Plain(), CPU, work, Done(losses=[3.0, 3.0], seconds=1000.0))
    assert called <= result["started"] <= time.time()
    assert 1000.0 < result["seconds"] < 1000.0 + time.time() - called
    assert (len(result["losses"]), saved) == (STEPS, [4])


def test_a_continued_training_has_the_dropout_of_an_uninterrupted_one(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random numbers depend on seed, step and rank, so a checkpoint need not hold the state of a generator."""
    state: dict[int, Any] = {}

    def keep(engine: Plain, done: Done) -> None:
        state[len(done.losses)] = copy.deepcopy((engine.module.state_dict(), engine.optimizer.state_dict(), done))

    monkeypatch.setattr(loop, "save", keep)
    whole = loop._train(Plain(dropout=0.5), CPU, work, Done())["losses"]
    engine = Plain(dropout=0.5)
    weights, optimizer, done = state[4]
    engine.module.load_state_dict(weights)
    engine.optimizer.load_state_dict(optimizer)
    assert loop._train(engine, CPU, work, done)["losses"] == whole
    assert loop._train(Plain(dropout=0.5), CPU, replace(work, random_seed=1), Done())["losses"] != whole
    assert loop._train(Plain(), CPU, work, Done())["losses"] != whole


def test_no_two_ranks_or_steps_share_random_numbers() -> None:
    seeds = {loop.dropout_seed(seed, step, rank) for seed in range(3) for step in range(9) for rank in range(4)}
    assert len(seeds) == 3 * 9 * 4


def test_the_parts_of_one_schedule_have_the_rates_worked_out_by_hand(work: Work) -> None:
    """12 steps in 3 parts, 3 of them in the warm-up: after it the step t has 0.5 (1 + cos((t − 3) · 20°))."""
    whole = replace(
        work, learning_rate=1.0, schedule_parts=3, train=work.train.model_copy(update={"warmup_ratio": 0.25})
    )
    parts = [
        [loop.rate_of_work(step, 4, replace(whole, schedule_part=part)) for step in range(4)] for part in (1, 2, 3)
    ]
    assert parts[0] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert parts[1] == pytest.approx([0.969846, 0.883022, 0.75, 0.586824], abs=1e-6)
    assert parts[2] == pytest.approx([0.413176, 0.25, 0.116978, 0.030154], abs=1e-6)
    own = [loop.rate_of_work(step, 4, replace(whole, schedule_parts=1)) for step in range(4)]
    assert (
        own == pytest.approx([1.0, 1.0, 0.75, 0.25]) == [loop.learning_rate_at(step, 4, 1.0, 0.25) for step in range(4)]
    )


def test_a_part_does_not_depend_on_the_steps_of_other_parts(work: Work) -> None:
    """The second half begins at half of the peak after 10 steps as after 1,000."""
    train = work.train.model_copy(update={"warmup_ratio": 0.0})
    second = replace(work, learning_rate=1.0, schedule_part=2, schedule_parts=2, train=train)
    assert [loop.rate_of_work(0, steps, second) for steps in (1, 10, 1000)] == pytest.approx([0.5] * 3)
    assert [loop.rate_of_work(steps // 2, steps, second) for steps in (2, 10, 1000)] == pytest.approx(
        [0.146447] * 3, abs=1e-6
    )


@pytest.mark.parametrize(("steps", "later"), [(20, 20), (20, 60), (100, 20), (37, 911)])
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.5])
def test_the_rate_has_no_jump_at_the_border_of_two_rounds(work: Work, steps: int, later: int, ratio: float) -> None:
    """The last step of a round and the first of the next differ by no more than two steps of a schedule do."""
    whole = replace(
        work, learning_rate=1.0, schedule_parts=3, train=work.train.model_copy(update={"warmup_ratio": ratio})
    )
    for part in (1, 2):
        before, after = replace(whole, schedule_part=part), replace(whole, schedule_part=part + 1)
        rates = [loop.rate_of_work(step, steps, before) for step in range(steps)]
        following = [loop.rate_of_work(step, later, after) for step in range(later)]
        largest = max(abs(a - b) for series in (rates, following) for a, b in itertools.pairwise(series))
        assert abs(following[0] - rates[-1]) <= 2 * largest
        if ratio == 0.0:
            assert loop.rate_of_work(steps, steps, before) == pytest.approx(following[0])


def test_the_steps_of_a_training_take_the_rates_of_its_part(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, rates = Plain(), []
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (rates.append(engine.optimizer.param_groups[0]["lr"]), step()))
    monkeypatch.setattr(loop, "save", lambda engine, done: None)
    third = replace(work, schedule_part=3, schedule_parts=3)
    loop._train(engine, CPU, third, Done())
    assert rates == [loop.learning_rate_at(12 + at, 18, 1e-3, 0.03) for at in range(STEPS)]
    continued = Plain()
    last = rates[4:]
    rates.clear()
    monkeypatch.setattr(continued, "step", lambda: rates.append(continued.optimizer.param_groups[0]["lr"]))
    loop._train(continued, CPU, third, Done(losses=[3.0] * 4))
    assert rates == last, "a continued training has the rates of an uninterrupted one"
