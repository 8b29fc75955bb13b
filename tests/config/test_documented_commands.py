"""Commands of docs/measures.md and docs/method.md: a config takes what they set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tapir_ray.config import load

ROOT = Path(__file__).parents[2]
PAGES = "".join((ROOT / f"docs/{name}.md").read_text() for name in ("measures", "method"))
COMMANDS = re.findall(r"^tapir run (\S+) --set (.+)$", PAGES, flags=re.MULTILINE)


@pytest.mark.parametrize(("config", "given"), COMMANDS, ids=[given[-40:] for _, given in COMMANDS])
def test_a_command_of_the_page_is_a_run(config: str, given: str) -> None:
    found = load(str(ROOT / config), given.split())
    assert found.work == "tapir"


@pytest.mark.parametrize("measure", ["self_consistency", "unknown"])
def test_the_other_measures_are_taken_in_the_same_way(measure: str) -> None:
    assert len(COMMANDS) == 5
    given = [one.replace("frontier", measure) for _, given in COMMANDS if "frontier" in given for one in given.split()]
    found = load(str(ROOT / "configs/demo.yaml"), given)
    assert found.curriculum.difficulty.measure == measure and not found.judges
