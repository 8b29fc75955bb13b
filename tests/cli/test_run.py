"""Errors visible in a config are refused without Ray, a request or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapir_ray.api.offline import check_offline
from tapir_ray.config import Config, parse
from tapir_ray.errors import InputError
from tests.runs import SIMULATED, Driver, write_config

NO_OTHERS = {"curriculum": {"weights": {"Math": 1.0}}}


def config(tmp_path: Path, **sections: Any) -> Config:
    (tmp_path / "seed.jsonl").write_text('{"instruction": "i", "output": "o"}\n')
    (tmp_path / "prompts").mkdir(exist_ok=True)
    (tmp_path / "prompts" / "expand.jinja").write_text("{{ tsk }}")
    seed_data = {"path": str(tmp_path / "seed.jsonl")}
    return parse({"name": "x", "student": {"model": "owner/student"}, "seed_data": seed_data, **sections})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (NO_OTHERS, "classify.by: none gives every row the task Others, which has no weight"),
        ({"filter": {"functions": ["tests.cli.test_run:none"]}}, "filter.functions"),
        ({"filter": {"functions": [":f"]}}, "filter.functions: ':f' is not of the form package.module:function"),
        ({"filter": {"evaluation_sets": ["tests/none.jsonl"]}}, "filter.evaluation_sets tests/none.jsonl"),
        ({"seed_data": {"path": "tests/alpaca.jsonl"}}, "seed_data.path tests/alpaca.jsonl"),
        ({"simulator": {"scenario": "recorded", "path": "none.jsonl"}}, "simulator.path none.jsonl"),
        ({"simulator": {"scenario": "none.jsonl"}}, "simulator.scenario none.jsonl"),
    ],
)
def test_an_error_in_a_config_names_its_key(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        check_offline(config(tmp_path, **sections))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_prompt_is_rendered_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expand\.jinja uses tsk"):
        check_offline(config(tmp_path, prompts={"dir": str(tmp_path / "prompts")}))


def test_a_single_task_needs_a_weight_only_if_rows_get_it(tmp_path: Path) -> None:
    assert check_offline(config(tmp_path)).weights["Others"] > 0
    assert check_offline(config(tmp_path, **NO_OTHERS), labelled=True).weights["Math"] == 1.0
    labelled = {**NO_OTHERS, "classify": {"by": "teacher"}}
    assert check_offline(config(tmp_path, **labelled)).weights["Others"] == 0.0
    assert check_offline(config(tmp_path, curriculum={"tasks": "seed"})).from_seed


@pytest.mark.timeout(120)
def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path) -> None:
    """The signal comes before Ray has started, so the run need not wait for Ray."""
    driver = Driver(write_config(tmp_path, SIMULATED), tmp_path / "run")
    process = driver.start()
    assert driver.wait_for("attempts/00001.json", process), driver.printed()
    process.terminate()
    assert process.wait(60) == 3, driver.printed()
    assert "stopped by SIGTERM; what is finished is kept" in driver.printed()
    assert driver.run.exists("attempts/00001.ended.json")
