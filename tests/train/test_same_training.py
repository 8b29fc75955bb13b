"""One small training takes the same steps for any number of workers, ZeRO stage and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tapir_ray.train.batches import PackedReader, collate
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.loop import learning_rate_at
from tapir_ray.train.loss import response_loss
from tests.train.pool import Pool, work_of
from tests.train.test_student import FS, TRAIN, packed_folder

STEPS, GLOBAL_BATCH, RATE = 20, 8, 3e-3
SEQUENCES = STEPS * GLOBAL_BATCH - 3
EXACT = 1e-4
"""Relative tolerance of a loss: float32 sums in another order, over 20 steps."""
BFLOAT16 = 5e-3
"""Relative tolerance of a loss: weights and activations have 8 bits, the optimizer's own copy has 24."""
STRAYED = {"float32": 0.01, "bfloat16": 0.03}
"""Tolerance of a tensor's weights, relative to their change in the plain loop."""
ROUNDED = {"float32": 0.0, "bfloat16": 2**-8}
"""Additional tolerance, relative to the weights themselves: the unit roundoff of the written type."""
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def packed(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed_folder(model, tmp_path_factory.mktemp("packed"), sequences=SEQUENCES)


@pytest.fixture(scope="module")
def plain(model: str, packed: str) -> tuple[list[float], Weights, Weights]:
    """The losses of the same training in one process, without Ray or DeepSpeed, with the weights before and after
    it."""
    reader = PackedReader(packed, FS)
    student = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    decayed = [p for p in student.parameters() if p.ndim > 1]
    other = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    losses = []
    for step in range(STEPS):
        first = step * GLOBAL_BATCH
        rows = [reader[i] for i in range(first, min(first + GLOBAL_BATCH, SEQUENCES))]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, STEPS, RATE, TRAIN.warmup_ratio)
        optimizer.zero_grad()
        loss = response_loss(student, collate(rows, False)) / sum((row["labels"] != IGNORED).sum() for row in rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), TRAIN.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1, "a training that does not progress would look the same for any settings"
    return losses, before, student.state_dict()


@pytest.fixture
def expected(plain: tuple[list[float], Weights, Weights]) -> list[float]:
    return plain[0]


def train(pool: Pool, model: str, packed: str, folder: Path, **changes: Any) -> list[float]:
    """Trains and returns the losses; the student is written to `folder/student`."""
    settings = {"global_batch_size": GLOBAL_BATCH, "micro_batch_size": 4, "weight_decay": 0.1, **changes}
    return pool.train(work_of(model, packed, TRAIN.model_copy(update=settings), RATE), str(folder / "student"))


def largest_difference(losses: list[float], expected: list[float]) -> float:
    """Returns the largest difference of a step's losses, relative to the expected loss."""
    return max(abs(loss - other) / other for loss, other in zip(losses, expected, strict=True))


@pytest.mark.parametrize(("workers", "micro_batch_size"), [(1, 8), pytest.param(2, 4, marks=pytest.mark.slow), (2, 2)])
def test_workers_and_accumulation_do_not_change_the_steps(
    alone: Pool,
    pair: Pool,
    model: str,
    packed: str,
    expected: list[float],
    tmp_path: Path,
    workers: int,
    micro_batch_size: int,
) -> None:
    losses = train(alone if workers == 1 else pair, model, packed, tmp_path, micro_batch_size=micro_batch_size)
    assert largest_difference(losses, expected) < EXACT


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_accumulation_in_bfloat16_does_not_change_the_steps(
    pair: Pool, model: str, packed: str, expected: list[float], tmp_path: Path, zero_stage: int
) -> None:
    """DeepSpeed sums the exchanged 32-bit gradients in other code than for float32 or a single batch."""
    losses = train(pair, model, packed, tmp_path, zero_stage=zero_stage, precision="bfloat16", micro_batch_size=1)
    assert largest_difference(losses, expected) < BFLOAT16


@pytest.mark.parametrize(
    ("zero_stage", "precision", "gradient_checkpointing"),
    [
        (0, "float32", False),
        (1, "float32", False),
        (2, "float32", True),
        (3, "float32", False),
        (0, "bfloat16", False),
        (1, "bfloat16", False),
        (2, "bfloat16", False),
        (3, "bfloat16", True),
    ],
)
def test_stages_precisions_and_checkpointing_do_not_change_the_training(
    pair: Pool,
    model: str,
    packed: str,
    plain: tuple[list[float], Weights, Weights],
    tmp_path: Path,
    zero_stage: int,
    precision: str,
    gradient_checkpointing: bool,
) -> None:
    settings = {"zero_stage": zero_stage, "precision": precision, "gradient_checkpointing": gradient_checkpointing}
    losses = train(pair, model, packed, tmp_path, **settings)
    expected, before, after = plain
    assert largest_difference(losses, expected) < (EXACT if precision == "float32" else BFLOAT16)
    # The exported weights are gathered from both workers. Stale or truncated ones would be finite too.
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype=torch.float32).state_dict()
    assert exported.keys() == after.keys()
    for name, weight in after.items():
        allowed = STRAYED[precision] * (weight - before[name]).norm() + ROUNDED[precision] * weight.norm()
        assert (exported[name] - weight).norm() < allowed, name
