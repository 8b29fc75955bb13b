"""Checks of this machine: places for all claims, and memory for the student's answers and for its training.

The formulas count what a training holds for each weight (ZeRO, arXiv 1910.02054, section 3) and for each token between
forward and backward pass (arXiv 2205.05198, section 4.1, without the scores of the attention, which sdpa and
flash_attention_2 do not keep). They are guesses: fragments, libraries and other processes come on top.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil

from tapir_ray.api.checks.base import FAIL, PASS, UNKNOWN, WARN, Finding, Status, Subject, gib
from tapir_ray.api.checks.sizes import BYTES, ModelSize, model_size
from tapir_ray.cluster.capacity import shortage
from tapir_ray.config import Replicas, Train
from tapir_ray.llm.engine.requests import KV_CACHE_BYTES
from tapir_ray.methods import method_of
from tapir_ray.train.batches import micro_batch_size
from tapir_ray.train.engine import stage_of

GPU_GIB = {
    "T4": 16, "V100": 16, "L4": 24, "A10G": 24, "L40S": 48, "A100": 40, "A100-40G": 40, "A100-80G": 80,
    "H100": 80, "H20": 96, "H200": 141, "B200": 192, "GH200": 96,
}  # fmt: skip
"""Memory by Ray's name of a type, for a claim with `accelerator_type`; the smallest that is sold under the name."""
OF_PROCESS = 1.5 * 2**30
"""Bytes of a process with torch and its libraries, on top of the model."""
UTILISATION = 0.9
"""vLLM's default share of a GPU's memory."""
TIGHT = 0.9
"""Share of the memory above which a fit is reported as a risk."""
ACTIVATIONS, RECOMPUTED = 34, 2
"""Bytes in 16 bits for each token, layer and hidden value: kept, and with gradient checkpointing."""
CLUSTER = "the machines of the cluster are not known here: tapir check --address asks them"


def capacity(subject: Subject) -> Iterator[Finding]:
    """Yields whether all claims of `resources` can be placed on this machine."""
    if os.environ.get("RAY_ADDRESS"):
        yield Finding("resources", UNKNOWN, CLUSTER)
        return
    config, gpus = subject.config, _gpus()
    cpus = float(config.resources.cpus or os.cpu_count() or 1)
    node = {"CPU": cpus, "GPU": float(len(gpus))}
    have = f"this machine has {cpus:g} CPUs and {len(gpus)} GPUs"
    if short := shortage(config, [node]):
        todo = f"{short.replace('the cluster', 'it')}; for a cluster, use tapir check --address"
        yield Finding("resources", FAIL, have, todo)
    else:
        yield Finding("resources", PASS, f"{have}, and all claims have a place")


def answering(subject: Subject) -> Iterator[Finding]:
    """Yields whether the student's weights and KV cache fit into an engine's memory."""
    config, student = subject.config, subject.config.student
    if not method_of(config).trains or not student.spec.local:
        return
    name, size, claim = "memory: answers", model_size(config), config.resources.student
    if size is None:
        yield _unknown(name, student.model)
        return
    dtype = BYTES.get(size.dtype if student.dtype == "auto" else student.dtype, 2)
    weights = size.parameters * dtype / claim.tensor_parallel
    longest = size.kv_values * dtype * student.max_model_len / claim.tensor_parallel
    if claim.gpus:
        memory = _memory_of_gpu(claim)
        if memory is None:
            yield _unknown_gpu(name, weights + longest)
            return
        share = float(student.engine_kwargs.get("gpu_memory_utilization", UTILISATION))
        room = memory * share - OF_PROCESS - weights
        cache, where, have = room, f"a GPU of {gib(memory)}", memory * share
        need = OF_PROCESS + weights + longest
    else:
        cache = float(student.engine_kwargs.get("kv_cache_memory_bytes", KV_CACHE_BYTES))
        have, where = float(psutil.virtual_memory().total), "this machine's memory"
        need = claim.replicas * (OF_PROCESS + weights + max(cache, longest))
        where = f"{where} of {gib(have)}"
    at_once = int(max(0.0, cache) // max(1.0, longest))
    found = (
        f"weights {gib(weights)}, KV cache {gib(longest)} for an answer of student.max_model_len "
        f"{student.max_model_len}, {at_once:,} at once; {where}"
    )
    todo = "lower student.max_model_len, set student.dtype bfloat16, or raise resources.student.tensor_parallel"
    status = _fit(need, have)
    if status == PASS and not at_once:
        status, todo = FAIL, "lower student.max_model_len, or raise student.engine_kwargs.kv_cache_memory_bytes"
    yield Finding(name, status, found, "" if status == PASS else todo)


def training(subject: Subject) -> Iterator[Finding]:
    """Yields whether weights, gradients, optimizer and activations of the training fit into a worker's memory."""
    config, train, claim = subject.config, subject.config.train, subject.config.resources.train
    if not method_of(config).trains:
        return
    name, size = "memory: training", model_size(config)
    if size is None:
        yield _unknown(name, config.student.model)
        return
    state, kept = state_bytes(size, train, claim.replicas), activation_bytes(size, train, claim.replicas)
    need = OF_PROCESS + state + kept
    if claim.gpus:
        have = _memory_of_gpu(claim)
        if have is None:
            yield _unknown_gpu(name, need)
            return
        where = f"of a GPU of {gib(have)}"
    else:
        have, where = float(psutil.virtual_memory().total), "of this machine"
        need *= claim.replicas
    stage = stage_of(train, claim.replicas)
    what = f"ZeRO stage {stage}, {claim.replicas} workers" + (", LoRA" if train.lora else "")
    each = "" if claim.gpus or claim.replicas == 1 else " for each worker"
    found = (
        f"{gib(need)} {where}{f' ({gib(have)})' if not claim.gpus else ''}: weights, gradients and optimizer "
        f"{gib(state)}, activations {gib(kept)}{each} ({what})"
    )
    status = _fit(need, have)
    todo = "lower train.micro_batch_size, set train.gradient_checkpointing or train.lora"
    todo += ", raise resources.train.replicas with train.zero_stage 3" if claim.gpus else ""
    yield Finding(name, status, found, "" if status == PASS else todo)


def state_bytes(size: ModelSize, train: Train, workers: int) -> float:
    """Returns the bytes of weights, gradients and optimizer that a worker holds.

    In bfloat16 a weight has 2 bytes, its gradient 2 (4 if it is summed over micro-batches), and DeepSpeed's copy in
    float32 with Adam's two moments 12; in float32 they have 4, 4 and 8. Stage 1 divides the optimizer among the
    workers, stage 2 the gradients too, stage 3 everything.
    """
    trained, stage = size.trained(train.lora), stage_of(train, workers)
    full = train.precision == "float32"
    summed = train.global_batch_size // workers // micro_batch_size(train, workers) > 1
    weight, gradient = (4, 4) if full else (2, 4 if stage >= 2 and summed else 2)
    optimizer = 8 if full and stage == 0 else 12
    # An adapter's weights come on top of those of its base.
    total = size.parameters + (trained if train.lora is not None else 0)
    return (
        total * weight / (workers if stage == 3 else 1)
        + trained * gradient / (workers if stage >= 2 else 1)
        + trained * optimizer / (workers if stage >= 1 else 1)
    )


def activation_bytes(size: ModelSize, train: Train, workers: int) -> float:
    """Returns the bytes between forward and backward pass of a micro-batch, with the logits in float32."""
    tokens = micro_batch_size(train, workers) * train.sequence_length
    wider = 2 if train.precision == "float32" else 1
    # With checkpointing, one layer at a time is computed again.
    again = train.gradient_checkpointing
    layers = RECOMPUTED * size.layers + ACTIVATIONS if again else ACTIVATIONS * size.layers
    return float(tokens * (layers * size.hidden * wider + 2 * 4 * size.vocabulary))


def _fit(need: float, have: float) -> Status:
    return FAIL if need > have else WARN if need > TIGHT * have else PASS


def _gpus() -> list[int]:
    """Returns the bytes of memory of each GPU of this machine."""
    import torch

    return [torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count())]


def _memory_of_gpu(claim: Replicas) -> float | None:
    """Returns the bytes of a claimed GPU: by its type, else of the smallest here; None if neither is known."""
    if claim.accelerator_type is not None:
        known = GPU_GIB.get(claim.accelerator_type)
        return known * 2.0**30 if known is not None else None
    here = _gpus() if not os.environ.get("RAY_ADDRESS") else []
    return float(min(here)) * min(1.0, claim.gpus) if here else None


def _unknown(name: str, model: str | None) -> Finding:
    return Finding(name, UNKNOWN, f"{model} is not on this machine, so its size is not known", "download it first")


def _unknown_gpu(name: str, need: float) -> Finding:
    todo = "set accelerator_type of the claim, or check on the machine of the run"
    return Finding(name, UNKNOWN, f"about {gib(need)} on each GPU, whose memory is not known here", todo)
