r"""Measures parts of the code against simpler replacements; docs/decisions.md has the figures.

    python benchmarks/kept.py loss [--dtype bfloat16] [--chunk 32]    # our chunked loss and torch's
    python benchmarks/kept.py attention [--length 128]                # packed conversations one by one, or masked
    python benchmarks/kept.py capacity                                # the exact search for free places
    python benchmarks/kept.py answers                                 # an engine's log of answers
    python benchmarks/kept.py actor                                   # calls of the curriculum actor, on a local Ray

Each figure is from one thread: median CPU seconds, and the peak memory of a separate process above its inputs.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(sys.path.pop(0)))  # not this folder, whose names hide packages that torch imports

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

LOSSES = ("ours", "torch", "torch_accurate", "torch_compact", "all_at_once")
"""`torch` chooses by its default options; the next two set a policy, and our chunk size."""
TOKENS, VOCABULARY, HIDDEN = 2048, 32_000, 576
LAYERS = 4


def measured(work: Callable[[], Any], times: int) -> tuple[Any, float, float]:
    """Returns (the last result, median CPU seconds, MiB by which the peak of the process rose)."""
    before, seconds = peak(), []
    for _ in range(times):
        began = time.process_time()
        found = work()
        seconds.append(time.process_time() - began)
    return found, statistics.median(seconds), peak() - before


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loss_of(kind: str, hidden: Any, weight: Any, targets: Any, chunk: int) -> Any:
    """Returns the sum of the cross-entropy."""
    import torch
    from torch.nn import functional

    from tapir_ray.train import loss

    loss.LOGITS_AT_ONCE = chunk * len(weight)
    if kind == "ours":
        return loss.chunked_cross_entropy(hidden, weight, targets)
    if kind == "all_at_once":
        return functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")
    options = torch.nn.LinearCrossEntropyOptions()
    if kind != "torch":
        options = torch.nn.LinearCrossEntropyOptions(
            acc_policy=kind.removeprefix("torch_"),
            batch_chunk_size=chunk,
            chunking_method=None,
        )
    return functional.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)


def loss(kind: str, dtype: str, chunk: int) -> str:
    """Measures memory and time of a forward and a backward pass, and the distance of its gradients from float64."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, dtype=getattr(torch, dtype), requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, dtype=hidden.dtype).mul_(0.05).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,))
    torch.autograd.grad(loss_of(kind, hidden[:2], weight[:64], targets[:2] % 64, chunk), (hidden, weight))
    with torch.no_grad():
        value = loss_of(kind, hidden, weight, targets, chunk).item()
    found, seconds, mib = measured(
        lambda: torch.autograd.grad(loss_of(kind, hidden, weight, targets, chunk), (hidden, weight)), 3
    )
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    truth = torch.nn.functional.cross_entropy(exact[0] @ exact[1].T, targets, reduction="sum")
    expected = torch.autograd.grad(truth, exact)
    apart = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]
    off = abs(value - truth.item()) / truth.item()
    errors = f"off by {off:.1e}, gradients by {apart[0]:.1e} and {apart[1]:.1e}"
    return f"{kind:15} {mib:5.0f} MiB {seconds:6.2f} s   {errors}"


def attention(kind: str, length: int) -> str:
    """Measures memory and time of a training pass over a packed sequence of conversations of `length` tokens."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tapir_ray.train.packed_attention import attend_apart

    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = {"hidden_size": HIDDEN, "intermediate_size": 1536, "num_hidden_layers": LAYERS, "num_attention_heads": 9}
    config = LlamaConfig(**size, num_key_value_heads=3, vocab_size=128)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    if kind == "one_by_one":
        attend_apart(model)
    ids = torch.randint(128, (1, TOKENS))
    positions = torch.arange(length).repeat(TOKENS // length)[None]

    def train() -> Any:
        model.zero_grad()
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        logits.square().mean().backward()
        return logits

    _, seconds, mib = measured(train, 5)
    return f"{kind:15} {mib:5.0f} MiB {seconds:6.2f} s"


def capacity() -> None:
    """Times the two searches of a run, in milliseconds: for places of all claims, and with models that stay placed."""
    from tapir_ray.cluster import capacity
    from tapir_ray.config import parse

    bound = capacity.MOST_LOOKED_AT
    for count in (10, 100, 1000):
        nodes = [{"CPU": 64.0, "GPU": 8.0}] * count
        for replicas in (1, 4, 16):
            one = {"gpus": 1, "replicas": replicas}
            models = {role: {"engine": "vllm", "model": "m"} for role in ("teacher", "judge")}
            resources = {"teacher": one, "judge": one, "train": {"gpus": 4}, "student": {"gpus": 2}}
            config = parse(
                {"name": "x", "seed_data": {"path": "a"}, "student": {"model": "m"}, **models, "resources": resources}
            )
            shown = []
            for most in (bound, 10**12):
                capacity.MOST_LOOKED_AT = most
                began = time.process_time()
                capacity.shortage(config, nodes)
                for name in ("train", "student"):
                    capacity.fits_with_servers(config, name, nodes)
                seconds = time.process_time() - began
                shown.append(f"{seconds * 1000:.0f} ms")
            print(f"{count} nodes, {replicas} replicas of each: {shown[0]}, without the bound {shown[1]}", flush=True)


def answers() -> None:
    """Times the log of answers, in microseconds per answer: writing it, and finding an answer in a later engine."""
    import pyarrow.fs as pafs

    from tapir_ray.data.schemas import ID, SCORED
    from tapir_ray.run.answer_log import AnswerLog

    rows = [{"instruction_id": f"{n:032x}", "student_response": "word " * 200, "status": "ok"} for n in range(10_000)]
    with tempfile.TemporaryDirectory() as folder:

        def log() -> AnswerLog:
            return AnswerLog(folder, pafs.LocalFileSystem(), SCORED, ID, 64)

        def keep() -> None:
            made = log()
            for row in rows:
                made.write(made.add(row))
            made.write(made.rest())

        def find() -> int:
            later = log()
            return sum(later.found(row) is not None for row in rows)

        _, seconds, _ = measured(keep, 1)
        found, again, _ = measured(find, 1)
    print(f"kept: {seconds / len(rows) * 1e6:.0f} µs an answer; {found} found at {again / len(rows) * 1e6:.0f} µs each")


def actor() -> None:
    """Times, in milliseconds, the actor's start, a call that reads, and one that writes a version of the state."""
    import ray

    from tapir_ray.config import parse
    from tapir_ray.curriculum.actor import remove, start

    config = parse({"name": "x", "seed_data": {"path": "a"}, "student": {"model": "m"}})
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        handle = start(folder, "x", config.model_dump_json(), 1)
        began, first = time.perf_counter(), time.perf_counter() - began
        for _ in range(100):
            handle.state_dict()
        began, read = time.perf_counter(), (time.perf_counter() - began) / 100
        for count in range(100):
            handle.set_seed_counts({"Math": count + 1})
        written = (time.perf_counter() - began) / 100
        remove(handle)
    print(f"start {first * 1e3:.0f} ms, a read {read * 1e3:.1f} ms, a write {written * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("loss", "attention", *ALONE))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--chunk", type=int, default=1048, help="tokens of a chunk")
    parser.add_argument("--length", type=int, default=128, help="tokens of a conversation")
    options = parser.parse_args()
    if options.part in ALONE:
        ALONE[options.part]()
        return
    kinds = LOSSES if options.part == "loss" else ("one_by_one", "masked")
    measure: Callable[..., str] = loss if options.part == "loss" else attention
    given = (options.dtype, options.chunk) if options.part == "loss" else (options.length,)
    for kind in kinds:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(measure, (kind, *given)), flush=True)


ALONE = {"capacity": capacity, "answers": answers, "actor": actor}

if __name__ == "__main__":
    main()
