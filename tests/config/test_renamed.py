"""Keys of 0.1: each is refused with its new name, and so is a run written by 0.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_ray.config import Config, parse
from tapir_ray.config.load import load
from tapir_ray.config.renamed import RENAMED, old_key
from tapir_ray.errors import InputError
from tapir_ray.run.run import Run

BASE: dict[str, Any] = {"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}}


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_key_is_refused_with_its_new_name(old: str, new: str, tmp_path: Path) -> None:
    section, name = old.split(".")
    config = {**BASE, section: {**BASE.get(section, {}), name: 1}}
    if section == "regenerate":
        config["regenerate"]["operations"] = ["filter"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=rf"{old}: unknown key; since 0.2 it is called {new}"):
        load(tmp_path / "c.yaml")


def test_every_new_name_is_a_key() -> None:
    content = parse({**BASE, "regenerate": {"operations": ["filter"]}, "classify": {"by": "none"}}).model_dump()
    assert old_key(content) is None
    for new in RENAMED.values():
        section, name = new.split(".")
        assert name in content[section]
    assert set(content) == set(Config.model_fields)


def test_a_run_of_0_1_is_refused_in_one_sentence(tmp_path: Path) -> None:
    written = parse(BASE).model_dump(mode="json")
    written["resources"]["stage_cpus"] = written["resources"].pop("transform_cpus")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    (tmp_path / "events.jsonl").write_text("")
    with pytest.raises(InputError, match=r"was written by tapir-ray 0.1, which 0.2 cannot continue: use another"):
        Run.open(parse(BASE), str(tmp_path))
