"""Arguments of the student's engine: how much memory it takes on CPUs."""

from __future__ import annotations

import pytest

from tapir_ray.config import Replicas, Student
from tapir_ray.llm.engine.requests import KV_CACHE, KV_CACHE_BYTES, engine_arguments, engine_environment


def test_the_size_of_the_kv_cache_on_cpus_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable wins in vLLM, so it must not be set for a user who gives the argument."""
    replicas, given = Replicas(gpus=0), Student(model="m", engine_kwargs={"kv_cache_memory_bytes": 10**8})
    monkeypatch.delenv(KV_CACHE, raising=False)
    assert engine_arguments("m", Student(model="m"), replicas)["kv_cache_memory_bytes"] == KV_CACHE_BYTES
    assert engine_arguments("m", given, replicas)["kv_cache_memory_bytes"] == 10**8
    assert KV_CACHE not in engine_environment(replicas, None)
    monkeypatch.setenv(KV_CACHE, "4")
    assert "kv_cache_memory_bytes" not in engine_arguments("m", Student(model="m"), replicas)
    assert engine_environment(replicas, None)[KV_CACHE] == "4"
