"""Measures one training on one device through our engine and step, for `gpu.py train`.

    figures = measure("1.1B", Setting(attention="nested", micro=8), torch.device("cuda"), rounds=3)

The model is a Llama made from its config, with random bfloat16 weights created on the device. The data are packed
sequences of conversations of random tokens, with the lengths of Alpaca's.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import torch
from torch import distributed
from torch.nn import functional

from benchmarks.flops import Needed, matrix_rates
from benchmarks.nested_attention import NestedAttention
from tapir_ray.config import Student, Train
from tapir_ray.data.schemas import PACKED, conform
from tapir_ray.train import loop, loss
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.checkpoint import Done
from tapir_ray.train.engine import engine_of
from tapir_ray.train.work import Work
from tapir_ray.transforms.pack import best_fit

FS = pafs.LocalFileSystem()
PROMPT, RESPONSE = (2.92, 0.46), (3.55, 1.14)
"""Mean and deviation of the logarithm of a token count: of alpaca_9k, chat marks included, with a BPE vocabulary of
27,000 trained on it."""
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Size:
    """Llama, and the batches that it is trained on."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    sequence_length: int
    global_batch_size: int
    """Sequences per step."""
    steps: int
    """Steps per round."""

    def model(self, attention: str, device: torch.device) -> Any:
        """Creates the model in bfloat16 on the device."""
        from transformers import AutoModelForCausalLM, LlamaConfig

        sizes = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)[:6]}
        config = LlamaConfig(**sizes, max_position_embeddings=self.sequence_length, tie_word_embeddings=False)
        torch.manual_seed(0)
        with device:
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=attention)


SIZES = {
    "1.1B": Size(2048, 8192, 16, 16, 8, 32_000, sequence_length=2048, global_batch_size=32, steps=8),
    "tiny": Size(64, 128, 2, 4, 2, 512, sequence_length=256, global_batch_size=8, steps=2),
}


@dataclass(frozen=True)
class Setting:
    """Settings that are varied; the defaults are those of a run, except `micro`."""

    zero: Literal[0, 1, 2, 3] = 2
    attention: str = "sdpa"
    """`sdpa` computes and masks whole sequences; `flash_attention_2` (flash-attn) and `nested` (torch alone) do not."""
    optimizer: str = "fused"
    """AdamW: `fused` or `plain` (a kernel an operation, over all weights at once)."""
    loss: str = "chunked"
    """`chunked` (tapir_ray/train/loss.py), `liger` (its fused linear cross-entropy) or `full`: all logits at once."""
    layers: str = "plain"
    """`plain`, `liger` (its norms, rotary embedding and SwiGLU) or `compiled` (torch.compile, each layer)."""
    checkpointing: bool = False
    micro: int = 4
    """Sequences per forward pass."""

    def changed(self) -> str:
        """Returns the settings that differ from the defaults, as a name; `default` if none does."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return ",".join(f"{name}={value}" for name, value in named.items() if value != getattr(Setting, name)) or (
            "default"
        )


ATTENTIONS = ("sdpa", "flash_attention_2", "nested")
OPTIMIZERS = ("fused", "plain")
LAYERS = ("plain", "liger", "compiled")


def full_cross_entropy(
    hidden_NH: torch.Tensor, weight_VH: torch.Tensor, targets_N: torch.Tensor, *_plain: Any
) -> torch.Tensor:
    """Computes `chunked_cross_entropy` with the logits of all tokens at once, kept for the backward pass."""
    return functional.cross_entropy((hidden_NH @ weight_VH.T).float(), targets_N, reduction="sum")


def liger_cross_entropy(
    hidden_NH: torch.Tensor, weight_VH: torch.Tensor, targets_N: torch.Tensor, *_plain: Any
) -> torch.Tensor:
    """Computes the loss by liger-kernel, with the output layer's gradient summed in 32 bits like ours."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    inner = LigerFusedLinearCrossEntropyLoss(reduction="sum", accum_dtype=torch.float32)
    found: torch.Tensor = inner(weight_VH, hidden_NH, targets_N)
    return found


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "chunked": loss.chunked_cross_entropy,
    "liger": liger_cross_entropy,
    "full": full_cross_entropy,
}


def measure(size: str, setting: Setting, device: torch.device, rounds: int) -> dict[str, Any]:
    """Returns figures of a training after `WARM_UP_STEPS`, as medians over the rounds.

    A round is timed from the data of its first step to the end of its last step. `mfu` is the rate of the needed FLOPs
    (`flops.Needed`) as a share of the best matrix rate of this device, measured just before. Call it once per process.
    """
    shape = SIZES[size]
    rates = matrix_rates(device)
    start_alone(device)
    model = shape.model(setting.attention, device)
    if setting.layers == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=False, model=model)
    elif setting.layers == "compiled":
        for layer in model.model.layers:
            layer.compile()
    if setting.attention == "nested":
        NestedAttention.install(model)
    needed, parameters = Needed.of(model), sum(parameter.numel() for parameter in model.parameters())
    loss.chunked_cross_entropy = LOSSES[setting.loss]
    with tempfile.TemporaryDirectory() as folder:
        warm_up = work_of(shape, setting, f"{folder}/warm-up")
        work = work_of(shape, setting, f"{folder}/steps")
        write_sequences(warm_up.packed_dir, shape, WARM_UP_STEPS, seed=1)
        lengths = write_sequences(work.packed_dir, shape, shape.steps, seed=2)
        engine = engine_of(model, work, device, fused=setting.optimizer == "fused")
        loop._train(engine, device, warm_up, Done())
        results = [loop._train(engine, device, work, Done()) for _ in range(rounds)]
    distributed.destroy_process_group()

    tokens, in_loss = results[0]["tokens"], results[0]["response_tokens"]
    assert tokens == sum(lengths), (tokens, sum(lengths))
    seconds = statistics.median(result["seconds"] for result in results)
    rate, flops = max(rates.values()), needed.flops(tokens, in_loss, lengths)
    return {
        "mfu": flops / seconds / rate,
        "tokens_per_second": tokens / seconds,
        "rounds_tokens_per_second": [round(tokens / result["seconds"], 1) for result in results],
        "matrix_tflops": {name: value / 1e12 for name, value in rates.items()},
        "needed_tflops_a_step": flops / shape.steps / 1e12,
        "step_seconds": seconds / shape.steps,
        "parameters": parameters,
        "conversations": len(lengths),
        "share_of_the_sequences_filled": tokens / (shape.steps * shape.global_batch_size * shape.sequence_length),
        "share_of_the_tokens_in_the_loss": in_loss / tokens,
        "losses": [round(results[0]["losses"][0], 3), round(results[-1]["losses"][-1], 3)],
        "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
    }


def start_alone(device: torch.device) -> None:
    """Starts a process group of one, which needs no network, and sets the environment that DeepSpeed reads."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    os.environ.update(GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)


def work_of(shape: Size, setting: Setting, packed_dir: str) -> Work:
    """Returns the description of a training on a packed table, as a worker gets it."""
    train = Train(
        sequence_length=shape.sequence_length,
        global_batch_size=shape.global_batch_size,
        micro_batch_size=setting.micro,
        zero_stage=setting.zero,
        gradient_checkpointing=setting.checkpointing,
        # The model has its attention already: this makes training put all sequences of a forward pass into one row.
        attention="sdpa" if setting.attention == "sdpa" else "flash_attention_2",
        checkpoint_minutes=10**6,
    )
    return Work(
        packed_dir=packed_dir,
        holdout_dir=None,
        storage_dir=packed_dir,
        fs=FS,
        init_model="none",
        base_model=None,
        student=Student(model="none"),
        train=train,
        learning_rate=1e-5,
        epochs=1,
        random_seed=0,
        progress=None,
    )


def write_sequences(folder: str, shape: Size, steps: int, seed: int) -> list[int]:
    """Writes the packed table of `steps` full batches, and returns the token counts of its conversations."""
    Path(folder).mkdir()
    rng = np.random.default_rng(seed)
    sequences, room = steps * shape.global_batch_size, shape.sequence_length
    pairs: list[tuple[int, int]] = []
    while sum(map(sum, pairs)) < sequences * room:
        prompts, responses = (np.maximum(1, rng.lognormal(*lengths, 64)).astype(int) for lengths in (PROMPT, RESPONSE))
        pairs += [(int(p), min(int(r), room - int(p))) for p, r in zip(prompts, responses, strict=True) if p < room]
    packed = best_fit([sum(pair) for pair in pairs], room)[:sequences]
    rows = []
    for number, members in enumerate(packed):
        lengths = [sum(pairs[member]) for member in members]
        ids = rng.integers(0, shape.vocab_size, sum(lengths))
        in_prompt = np.concatenate([np.arange(sum(pairs[member])) < pairs[member][0] for member in members])
        rows.append(
            {
                "seq_index": number,
                "input_ids": ids,
                "labels": np.where(in_prompt, IGNORED, ids),
                "position_ids": np.concatenate([np.arange(length) for length in lengths]),
                "pair_ids": [str(member) for member in members],
            }
        )
    pq.write_table(conform(rows, PACKED), f"{folder}/packed-000-000000.parquet", row_group_size=64)
    return [sum(pairs[member]) for members in packed for member in members]
