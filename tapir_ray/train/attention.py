"""Checks, before anything is spent, that training workers have the attention package that the config needs.

warning = check_here(config.train)                                # a run that starts Ray on this machine
warning = check_on_worker(config.train, config.resources.train)   # a run that joins a cluster
"""

from __future__ import annotations

import importlib.util
import os

from tapir_ray.config import Replicas, Train
from tapir_ray.errors import InputError

PACKAGES = ("flash_attn", "kernels")
"""Packages that give transformers `flash_attention_2`: the package itself, or one that fetches compiled kernels."""
PATIENCE_S = 60.0
"""Longest wait for the resources of a training worker, in seconds: an autoscaler may have to start its node."""


def check_here(train: Train) -> str | None:
    """Raises InputError if Ray will be started here, this machine has a GPU and its Python lacks FlashAttention.

    Returns a warning if this machine lacks both, since another machine must then train; else None. Checks nothing if a
    cluster is joined (`RAY_ADDRESS`): this machine's packages say nothing about the workers.
    """
    if train.attention != "flash_attention_2" or os.environ.get("RAY_ADDRESS") or not is_missing():
        return None
    if has_gpu():
        raise InputError(_refusal("here"))
    return (
        "train.attention flash_attention_2 needs flash_attn where training takes place; this machine has no GPU and "
        "will not train, so this was not checked"
    )


def check_on_worker(train: Train, workers: Replicas, patience_s: float = PATIENCE_S) -> str | None:
    """Raises InputError if a node of the cluster that can train lacks FlashAttention. Needs a running Ray.

    Returns a warning if the resources of a worker were not free within `patience_s` seconds, else None.
    """
    if train.attention != "flash_attention_2":
        return None
    import ray

    look = ray.remote(is_missing).options(
        num_cpus=workers.cpus, num_gpus=workers.gpus, accelerator_type=workers.accelerator_type
    )
    reference = look.remote()
    found, _ = ray.wait([reference], timeout=patience_s)
    if not found:
        ray.cancel(reference)
        return (
            "train.attention flash_attention_2 needs flash_attn where training takes place; no training worker could "
            f"be placed in {patience_s:.0f} s, so this was not checked"
        )
    if ray.get(reference):
        raise InputError(_refusal("on a node of the cluster that training takes place on"))
    return None


def is_missing() -> bool:
    """Returns whether this Python lacks all packages that provide FlashAttention."""
    return not any(importlib.util.find_spec(name) for name in PACKAGES)


def has_gpu() -> bool:
    """Returns whether torch sees a GPU on this machine."""
    import torch

    return torch.cuda.is_available()


def _refusal(where: str) -> str:
    return (
        f"train.attention flash_attention_2 needs the package flash_attn, which is not installed {where}: install "
        "flash-attn, or set train.attention sdpa"
    )
