"""Whether the workers that train have the attention that the config asks for, looked at before anything is spent.

doubt = check_here(config.train)                                # a run that starts Ray on this machine
doubt = check_on_worker(config.train, config.resources.train)   # one that joins a cluster
"""

from __future__ import annotations

import importlib.util
import os

from tapir_ray.config import Replicas, Train
from tapir_ray.errors import InputError

PACKAGES = ("flash_attn", "kernels")
"""Either gives transformers its `flash_attention_2`: the package itself, or the one that fetches compiled kernels."""
PATIENCE_S = 60.0
"""How long a place for a training worker is waited for: its node may be one that an autoscaler has still to start."""


def check_here(train: Train) -> str | None:
    """Raises InputError where Ray will be started here and this machine's Python has no FlashAttention for its GPU.

    Returns a sentence for the user where there is no GPU either, so that it is another machine that will train; else
    None. Where a cluster is joined (`RAY_ADDRESS`) this machine says nothing of its workers.
    """
    if train.attention != "flash_attention_2" or os.environ.get("RAY_ADDRESS") or not is_missing():
        return None
    if has_gpu():
        raise InputError(_refusal("here"))
    return (
        "this machine has no GPU and will not train, so nobody has looked whether flash_attn is installed where "
        "training takes place, as train.attention flash_attention_2 needs"
    )


def check_on_worker(train: Train, workers: Replicas, patience_s: float = PATIENCE_S) -> str | None:
    """Raises InputError where a node of the cluster that training takes place on has no FlashAttention.

    Returns a sentence for the user where no worker's place was free in time, else None. Needs a running Ray.
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
            f"no place for a training worker was free in {patience_s:.0f} s, so nobody has looked whether flash_attn "
            "is installed there, as train.attention flash_attention_2 needs"
        )
    if ray.get(reference):
        raise InputError(_refusal("on a node of the cluster that training takes place on"))
    return None


def is_missing() -> bool:
    """Whether this Python can import none of the packages that bring FlashAttention."""
    return not any(importlib.util.find_spec(name) for name in PACKAGES)


def has_gpu() -> bool:
    """Whether training could take place on this machine."""
    import torch

    return torch.cuda.is_available()


def _refusal(where: str) -> str:
    return (
        f"train.attention flash_attention_2 needs the package flash_attn, which is not installed {where}: install "
        "flash-attn, or set train.attention sdpa"
    )
