"""The curriculum actor on a real Ray: it dies and returns with its state, and overtaken attempts are refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import ray

from tapir_ray.config import parse
from tapir_ray.curriculum import actor
from tapir_ray.curriculum.actor import Handle, StateFiles
from tapir_ray.curriculum.stats import ScoreStats, TaskStats
from tapir_ray.errors import InputError, StageError

STATS = ScoreStats(rows=120, by_task={"Math": TaskStats(histogram={0.0: 60, 4.0: 60})})
CELLS = {("hard", "Math"): (60, 600), ("easy", "Math"): (60, 600)}


def config_json(**curriculum: Any) -> str:
    found = parse({"name": "t", "student": {"model": "m"}, "seed_data": {"path": "x"}, "curriculum": curriculum})
    return found.model_dump_json()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "state").iterdir())


@pytest.fixture
def curriculum(ray_local: None, tmp_path: Path) -> Any:
    handle = actor.start(str(tmp_path), tmp_path.name, config_json(), attempt=1)
    yield handle
    actor.remove(handle)


def test_an_actor_killed_at_any_moment_loses_nothing_and_applies_nothing_twice(
    curriculum: Handle, tmp_path: Path
) -> None:
    curriculum.observe(1, STATS)
    plan = curriculum.plan(1)
    mix = curriculum.plan_mix(1, CELLS)
    assert plan.hard == 60
    assert mix.size > 0
    state, written = curriculum.state_dict(), files(tmp_path)
    ray.kill(curriculum.actor, no_restart=False)
    assert curriculum.state_dict() == state, "a new process answers"

    curriculum.observe(1, STATS)
    assert curriculum.plan(1) == plan
    assert curriculum.plan_mix(1, CELLS) == mix
    assert files(tmp_path) == written, "repeats write nothing"

    def die_after_saving(self: Any) -> None:
        save = self._save

        def save_and_die(content: Any) -> None:
            save(content)
            os._exit(1)

        self._save = save_and_die

    ray.get(curriculum.actor.__ray_call__.remote(die_after_saving))
    curriculum.observe(2, STATS)
    assert len(files(tmp_path)) == len(written) + 1, "Ray repeats the call, whose effect is already saved"
    assert curriculum.state_dict()["rounds"]["2"] == {"stats": json.loads(STATS.model_dump_json())}
    assert curriculum.metrics()["round_1/alpha"] == 0.3

    other = STATS.merged(STATS)
    curriculum.observe(1, other)
    assert curriculum.plan(1).hard == 120, "new scores replace the plan that was made from the old ones"


def test_a_later_attempt_takes_over_and_the_earlier_is_refused(curriculum: Handle, tmp_path: Path) -> None:
    curriculum.observe(1, STATS)
    later = actor.start(str(tmp_path), tmp_path.name, config_json(), attempt=2)
    assert later.plan(1).hard == 60, "the state is read from storage"
    for call in (lambda: curriculum.observe(1, STATS), lambda: curriculum.plan(1), curriculum.state_dict):
        with pytest.raises(StageError, match=r"attempt 1 .* overtaken by attempt 2"):
            call()
    with pytest.raises(StageError, match="overtaken"):
        actor.start(str(tmp_path), tmp_path.name, config_json(), attempt=1)
    ray.kill(later.actor, no_restart=False)
    with pytest.raises(StageError, match="overtaken"):
        curriculum.plan(1)
    assert later.plan(1).hard == 60


def test_another_config_and_a_plan_without_scores_are_refused(curriculum: Handle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another config"):
        actor.start(str(tmp_path), tmp_path.name, config_json(alpha=0.5), attempt=2)
    with pytest.raises(StageError, match="observe them"):
        curriculum.plan(3)
    curriculum.observe(1, STATS)
    state = curriculum.state_dict()
    curriculum.observe(2, STATS)
    curriculum.load_state_dict(state)
    assert curriculum.state_dict() == state
    with pytest.raises(InputError, match="another config"):
        curriculum.load_state_dict({**state, "config": "x"})


def test_the_weights_of_the_seed_data_are_part_of_the_state(ray_local: None, tmp_path: Path) -> None:
    handle = actor.start(str(tmp_path), tmp_path.name, config_json(tasks="seed"), attempt=1)
    handle.set_seed_counts({"Math": 1, "Cooking": 1})
    handle.observe(1, STATS)
    assert handle.plan(1).absent_tasks == ["Cooking"]
    actor.remove(handle)


def test_a_truncated_state_file_is_skipped(tmp_path: Path) -> None:
    store = StateFiles(tmp_path.as_uri())
    assert store.latest() is None
    store.write(1, {"n": 1})
    (tmp_path / "state" / "00001-000001.json").write_text('{"n": 2, "rou')
    assert StateFiles(str(tmp_path)).latest() == {"n": 1}
    store.write(1, {"n": 3})
    assert files(tmp_path)[-1] == "00001-000002.json", "no file is written twice"
    assert store.latest() == {"n": 3}
    store.write(2, {"n": 4})
    with pytest.raises(StageError, match="overtaken"):
        store.write(1, {"n": 5})
    assert store.latest() == {"n": 4}
