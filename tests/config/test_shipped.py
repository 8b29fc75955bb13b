"""Shipped configs: each is valid, says what it is for, and passes the checks of `tapir check` that need no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapir_ray.api.offline import check_offline
from tapir_ray.config import Config, load
from tapir_ray.config.shipped import purpose, shipped, shipped_configs
from tapir_ray.errors import InputError
from tests.runs import ROOT

NAMES = {"alpaca_recorded", "demo", "elad_demo", "llama2_7b_paper", "openai_teacher", "qwen_1gpu_lora", "regenerate",
         "smollm2_recorded", "vllm_teacher"}  # fmt: skip


def config(name: str, folder: Path) -> Config:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"instruction": f"Question {n}?", "output": "x"}) + "\n" for n in range(900)))
    return load(shipped_configs()[name], [] if name in ("demo", "elad_demo") else [f"seed_data.path={rows}"])


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_shipped_config_passes_the_checks_without_a_network(name: str, tmp_path: Path) -> None:
    found = config(name, tmp_path)
    assert found.name == name
    assert check_offline(found).labels


def test_the_names_and_purposes_are_listed() -> None:
    assert shipped_configs().keys() == NAMES
    assert all(len(purpose(file)) > 30 for file in shipped_configs().values())
    assert purpose(shipped("vllm_teacher")).startswith("A teacher that the run loads itself")
    with pytest.raises(InputError, match="there is no shipped config dmeo; there are alpaca_recorded, demo,"):
        shipped("dmeo")


def test_the_package_has_a_link_to_every_config_of_the_checkout() -> None:
    """`tapir submit` sends files and links to files, but no links to folders."""
    files = {file.name for file in (ROOT / "configs").iterdir()}
    assert {path.name for path in shipped_configs().values()} == files
    assert all(path.resolve() == ROOT / "configs" / path.name for path in shipped_configs().values())


@pytest.mark.parametrize("name", ["openai_teacher", "qwen_1gpu_lora", "llama2_7b_paper"])
def test_paid_configs_have_a_price_and_the_new_ones_a_budget(name: str, tmp_path: Path) -> None:
    found = config(name, tmp_path)
    assert all(endpoint.known_price is not None for endpoint in found.endpoints.values())
    assert name == "llama2_7b_paper" or found.budget.max_cost is not None
