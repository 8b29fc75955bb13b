"""Contenders of benchmarks/train.py, each in separate processes.

    python -m torch.distributed.run --standalone --nproc_per_node 2 -m benchmarks.train_peers trl_packed FOLDER OUT
    python -m benchmarks.train_peers bare FOLDER OUT

`train.prepared` writes FOLDER. OUT gets {"began": time of the first step, "ends": [[time, tokens so far]]}.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.train import FS, RATE, TRAIN
from tapir_ray.train.batches import PackedReader


def trl(folder: Path, contender: str) -> dict[str, Any]:
    """Trains by SFTTrainer on the pairs: packed or padded, with its gradient checkpointing or without."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Counting(SFTTrainer):
        tokens = 0

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            padded = inputs.get("attention_mask")
            self.tokens += inputs["input_ids"].numel() if padded is None else int(padded.sum())
            return super().compute_loss(model, inputs, *args, **kwargs)

    class Clock(TrainerCallback):
        began: float = 0.0

        def __init__(self) -> None:
            self.ends: list[tuple[float, int]] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = self.began or time.time()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append((time.time(), trainer.tokens))

    # A packed micro-batch becomes one row, whose attention mask grows with its square: one sequence is fastest.
    # Without packing 32 pairs hold about as many tokens as a packed global batch.
    packing = contender != "trl_default"
    micro, accumulation = (1, TRAIN.global_batch_size // 2) if packing else (8, 2)
    tuned = {"gradient_checkpointing": False, "ddp_find_unused_parameters": False}
    settings: dict[str, Any] = tuned if contender == "trl_tuned" else {}
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        max_length=TRAIN.sequence_length,
        packing=packing,
        learning_rate=RATE,
        num_train_epochs=1,
        use_cpu=True,
        bf16=False,
        ddp_backend="gloo",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32", "attn_implementation": TRAIN.attention},
        **settings,
    )
    clock = Clock()
    pairs = Dataset.from_list(json.loads((folder / "pairs.json").read_text()))
    trainer = Counting(str(folder / "model"), args=config, train_dataset=pairs, callbacks=[clock])
    trainer.train()
    ranks: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, [tokens for _, tokens in clock.ends])
    totals = [sum(tokens) for tokens in zip(*ranks, strict=True)]
    return {"began": clock.began, "ends": [(at, total) for (at, _), total in zip(clock.ends, totals, strict=True)]}


def bare(folder: Path) -> dict[str, Any]:
    """Trains by the model's own loss, clipping and AdamW on the packed sequences, one after the other."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(folder / "model"), dtype=torch.float32, attn_implementation=TRAIN.attention
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    reader = PackedReader(str(folder / "packed"), FS)
    rows = [
        {name: torch.from_numpy(values)[None] for name, values in reader[index].items()}
        for index in range(reader.sequences)
    ]
    began, tokens, ends = time.time(), 0, []
    for start in range(0, len(rows), TRAIN.global_batch_size):
        batch = rows[start : start + TRAIN.global_batch_size]
        for row in batch:
            (model(**row, use_cache=False).loss / len(batch)).backward()
            tokens += row["input_ids"].numel()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        ends.append((time.time(), tokens))
    return {"began": began, "ends": ends}


def main() -> None:
    contender, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    steps = bare(folder) if contender == "bare" else trl(folder, contender)
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        out.write_text(json.dumps(steps))


if __name__ == "__main__":
    main()
