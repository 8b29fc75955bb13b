"""FlashAttention that is not installed is refused before anything is spent, on the machine that trains."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.api.offline import check_offline, warn
from tapir_ray.cli.terminal import TERMINAL
from tapir_ray.config import Config, Replicas, Train
from tapir_ray.errors import InputError
from tapir_ray.train import attention
from tapir_ray.train.attention import check_here, check_on_worker
from tests.cli.test_run import config

FLASH = Train(attention="flash_attention_2")


def flash(folder: Path) -> Config:
    return config(
        folder, train={"attention": "flash_attention_2"}, resources={"train": {"gpus": 1}}, classify={"by": "teacher"}
    )


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name in missing else ("found" if name in attention.PACKAGES else find(name, *rest))

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_a_machine_that_trains_needs_flash_attention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    without(monkeypatch, "flash_attn", "kernels")
    monkeypatch.setattr(attention, "has_gpu", lambda: True)
    with pytest.raises(InputError, match=r"flash_attn, which is not installed here: .* set train\.attention sdpa"):
        check_offline(flash(tmp_path))
    assert check_here(Train()) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_offline(flash(tmp_path))


def test_a_laptop_that_only_checks_a_config_is_not_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(attention, "has_gpu", lambda: False)
    without(monkeypatch, "flash_attn", "kernels")
    check_offline(flash(tmp_path))
    assert not capsys.readouterr().err, "only `warn` prints the warning, once"
    warn(flash(tmp_path), TERMINAL)
    assert (
        "warning: train.attention flash_attention_2 needs flash_attn where training takes place"
        in capsys.readouterr().err
    )
    warn(config(tmp_path, classify={"by": "teacher"}), TERMINAL)
    without(monkeypatch)
    warn(flash(tmp_path), TERMINAL)
    assert "not checked" not in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["flash_attn", "kernels"])
def test_either_package_suffices(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    without(monkeypatch, missing)
    monkeypatch.setattr(attention, "has_gpu", lambda: True)
    assert check_here(FLASH) is None


def test_a_cluster_is_checked_on_a_node_that_fits_a_training_worker(ray_local: None) -> None:
    assert check_on_worker(Train(), Replicas(gpus=1.0)) is None, "no package is needed"
    if attention.is_missing():
        with pytest.raises(InputError, match="not installed on a node of the cluster"):
            check_on_worker(FLASH, Replicas())
    else:
        assert check_on_worker(FLASH, Replicas()) is None


def test_a_cluster_without_a_free_node_gives_only_a_warning(ray_local: None) -> None:
    doubt = check_on_worker(FLASH, Replicas(gpus=1.0), patience_s=1.0)
    assert doubt is not None and "no training worker could be placed in 1 s" in doubt
