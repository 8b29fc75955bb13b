"""The loss of packed sequences: equal to that of single conversations, for any split over workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from tapir_ray.config import Train
from tapir_ray.data.schemas import PACKED, conform
from tapir_ray.errors import StageError
from tapir_ray.train.batches import EMPTY, Packed, PackedReader, collate, micro_batch_size, micro_batches
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.loop import learning_rate_at
from tapir_ray.train.loss import response_loss
from tapir_ray.train.packed_attention import attend_apart

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: on a busy machine several threads spend most of their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def conversation(rng: np.random.Generator, prompt: int, response: int) -> Packed:
    ids = rng.integers(1, 50, prompt + response)
    labels = ids.copy()
    labels[:prompt] = IGNORED
    return {"input_ids": ids, "labels": labels, "position_ids": np.arange(prompt + response)}


def join(conversations: list[Packed]) -> Packed:
    return {name: np.concatenate([part[name] for part in conversations]) for name in conversations[0]}


def loss_and_gradient(model: Any, batches: list[dict[str, Any]]) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = sum(response_loss(model, batch) for batch in batches)
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention 2 runs on CUDA alone")


def random_model(config: Any, attention: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).train()


def share_apart(gradient: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the distance of a gradient from the expected one, relative to its norm."""
    return float((gradient - expected).norm() / expected.norm())


@pytest.mark.parametrize("attention", ["sdpa", "sdpa on CPUs", "eager"])
@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), Qwen2Config(**SIZES)], ids=["llama", "qwen2"])
def test_the_packed_loss_is_the_sum_over_conversations(config: Any, attention: str) -> None:
    model = random_model(config, attention.split()[0])
    if attention == "sdpa on CPUs":
        attend_apart(model)
    rng = np.random.default_rng(0)
    parts = [conversation(rng, *lengths) for lengths in [(3, 5), (6, 2), (2, 9), (4, 4), (1, 1)]]
    alone, gradient_alone = loss_and_gradient(model, [collate([part], one_row=False) for part in parts])
    sequences = [join(parts[:3]), join(parts[3:])]
    for one_row in (False, True):
        together, gradient = loss_and_gradient(model, [collate(sequences, one_row)])
        assert together == pytest.approx(alone, rel=1e-5)
        assert share_apart(gradient, gradient_alone) < 1e-5
    # Guard of this test: without restarting positions, conversations see each other.
    for sequence in sequences:
        sequence["position_ids"] = np.arange(len(sequence["input_ids"]))
    together, gradient = loss_and_gradient(model, [collate(sequences, False)])
    assert together != pytest.approx(alone, rel=1e-4)
    assert share_apart(gradient, gradient_alone) > 1e-2


@NO_CUDA
@pytest.mark.parametrize("config", [LlamaConfig(**SIZES), Qwen2Config(**SIZES)], ids=["llama", "qwen2"])
def test_the_packed_loss_is_the_sum_over_conversations_with_flash_attention(config: Any) -> None:
    """FlashAttention takes only 16-bit floats.

    Its result is compared with eager attention in 32 bits, within the precision of bfloat16.
    """
    rng = np.random.default_rng(0)
    parts = [conversation(rng, *lengths) for lengths in [(3, 5), (6, 2), (2, 9), (4, 4), (1, 1)]]
    eager = random_model(config, "eager").cuda()
    alone, gradient_alone = loss_and_gradient(eager, [on_gpu(collate([part], one_row=False)) for part in parts])
    flash = random_model(config, "flash_attention_2", torch.bfloat16).cuda()
    together, gradient = loss_and_gradient(flash, [on_gpu(collate([join(parts[:3]), join(parts[3:])], one_row=True))])
    assert together == pytest.approx(alone, rel=1e-2)
    assert share_apart(gradient.float(), gradient_alone) < 5e-2


def on_gpu(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cuda() for name, tensor in batch.items()}


def test_a_batch_without_responses_has_loss_and_gradient_0() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    empty = {"input_ids": np.zeros(1, int), "labels": np.full(1, IGNORED), "position_ids": np.zeros(1, int)}
    loss, gradient = loss_and_gradient(model, [collate([empty, empty], one_row=False)])
    assert loss == 0.0 and gradient.abs().sum() == 0.0


def packed_folder(folder: Path, sequences: int) -> list[Packed]:
    rng = np.random.default_rng(1)
    rows = [conversation(rng, 2, 3) for _ in range(sequences)]
    table = conform([{"seq_index": i, "pair_ids": [], **row} for i, row in enumerate(rows)], PACKED)
    folder.mkdir()
    pq.write_table(table[:5], folder / "packed-000-000000.parquet", row_group_size=2)
    pq.write_table(table[5:], folder / "packed-000-000001.parquet", row_group_size=3)
    return rows


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_global_batch_is_the_same_for_any_number_of_workers(tmp_path: Path, world: int) -> None:
    rows = packed_folder(tmp_path / "packed", 11)
    reader = PackedReader(str(tmp_path / "packed"), pafs.LocalFileSystem())
    assert reader.sequences == 11
    for step in range(3):
        seen = []
        for rank in range(world):
            micro = micro_batch_size(Train(global_batch_size=4, micro_batch_size=2), world)
            parts = list(micro_batches(reader, step, 4, rank, world, micro))
            assert len(parts) == 4 // world // micro
            # A forward pass computes only its sequences, and an empty one if it has none.
            assert all(part and (len(part) == 1 or all(row is not EMPTY for row in part)) for part in parts)
            seen += [tuple(row["input_ids"]) for part in parts for row in part if row is not EMPTY]
        assert sorted(seen) == sorted(tuple(row["input_ids"]) for row in rows[step * 4 : step * 4 + 4])


def test_a_table_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    packed_folder(tmp_path / "packed", 11)
    (tmp_path / "packed/packed-000-000000.parquet").unlink()
    with pytest.raises(StageError, match="not complete"):
        PackedReader(str(tmp_path / "packed"), pafs.LocalFileSystem())


def test_micro_batches_divide_the_share_of_a_rank() -> None:
    assert micro_batch_size(Train(global_batch_size=12, micro_batch_size=4), 2) == 3
    assert micro_batch_size(Train(global_batch_size=2, micro_batch_size=4), 2) == 1
    assert micro_batch_size(Train(global_batch_size=64, micro_batch_size=4), 2) == 4


def test_the_learning_rate_warms_up_and_falls_to_almost_0() -> None:
    rates = [learning_rate_at(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == 1.0 and rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert learning_rate_at(0, 1, 1.0, 0.0) == 1.0
