"""The loss of each holdout pair, for any packing of the pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed
from transformers import AutoModelForCausalLM, LlamaConfig

from tapir_ray.config import Train
from tapir_ray.data.schemas import PACKED, conform
from tapir_ray.train.batches import PackedReader, collate
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.holdout import mean_loss, mean_of, pair_losses
from tapir_ray.train.loss import response_loss
from tests.train.test_student_loss import SIZES, conversation, join

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()
    torch.set_num_threads(threads)


def test_a_packed_pair_has_its_own_loss_and_all_pairs_together_that_of_the_holdout(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    packed = [[conversation(rng, *rng.integers(2, 9, 2)) for _ in range(count)] for count in (3, 1, 4, 2, 1)]
    rows = [
        {"seq_index": at, "pair_ids": [f"{at}-{n}" for n in range(len(parts))], **join(parts)}
        for at, parts in enumerate(packed)
    ]
    pq.write_table(conform(rows, PACKED), tmp_path / "packed-000-000000.parquet", row_group_size=2)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES), attn_implementation="eager")
    reader, train = PackedReader(str(tmp_path), pafs.LocalFileSystem()), Train(global_batch_size=4, micro_batch_size=2)

    found = pair_losses(model, CPU, reader, train)
    alone = {
        f"{at}-{n}": (response_loss(model, collate([pair], False)).item(), int((pair["labels"] != IGNORED).sum()))
        for at, parts in enumerate(packed)
        for n, pair in enumerate(parts)
    }
    assert found.keys() == alone.keys()
    for pair, (loss, tokens) in alone.items():
        assert found[pair] == (pytest.approx(loss, rel=1e-5), tokens)
    whole = mean_loss(model, CPU, [[row] for row in reader.take(range(reader.sequences))], train)
    assert mean_of(found) == pytest.approx(whole, rel=1e-6)
