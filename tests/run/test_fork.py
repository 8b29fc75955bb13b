"""Forks keep the outputs that the new config leaves valid; a retry asks only failed rows again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapir_ray.config import Config, parse
from tapir_ray.errors import InputError
from tapir_ray.methods.tapir import layout
from tapir_ray.run import fork as module
from tapir_ray.run.fork import fork
from tapir_ray.run.retry import retry_failed
from tapir_ray.run.run import Run


def config(**changes: Any) -> Config:
    return parse({"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}, **changes})


def table(failed: int = 0) -> pa.Table:
    ids = [str(n) for n in range(6)]
    statuses = ["failed"] * failed + ["ok"] * (6 - failed)
    return pa.table({"instruction_id": ids, "source": ids, "draw_id": ids, "status": statuses, "reason": [None] * 6})


def run_with(folder: Path, tables: dict[str, int]) -> Run:
    run = Run.open(config(), str(folder))
    for name, failed in tables.items():
        run.write_rows(name, table(failed))
    return run


def test_a_fork_keeps_valid_outputs(tmp_path: Path) -> None:
    names = ["seed/read", "seed/instructions", "rounds/01/scored", "rounds/01/generated", "rounds/01/training"]
    old = run_with(tmp_path / "old", dict.fromkeys(names, 0))
    changed = config(rewrite={"mode": "second_pass"})
    copied = fork(old.uri, str(tmp_path / "new"), changed, layout(changed))
    assert copied == ["seed/read", "seed/instructions", "rounds/01/scored"]
    new = Run.open(changed, str(tmp_path / "new"))
    assert new.manifest("rounds/01/scored").rows == 6
    assert new.done("rounds/01/generated") is None
    assert fork(old.uri, str(tmp_path / "new"), changed, layout(changed)) == [], "an existing fork is continued"


def test_a_fork_with_another_control_keeps_the_curriculum(tmp_path: Path) -> None:
    """The tables of the control before are left behind; the seed rows with their tokens serve both."""
    names = ["seed/read", "seed/instructions", "control/pool", "rounds/01/scored", "rounds/01/training"]
    old = run_with(tmp_path / "old", dict.fromkeys([*names, "control/sft/01/training", "control/sft/01/holdout"], 0))
    changed = config(control="random")
    assert sorted(fork(old.uri, str(tmp_path / "new"), changed, layout(changed))) == sorted(names)
    same = config(control="sft")
    kept = fork(old.uri, str(tmp_path / "same"), same, layout(same))
    assert {"control/sft/01/training", "control/sft/01/holdout"} < set(kept)


def test_a_retry_of_scores_makes_the_control_again(tmp_path: Path, ray_local: None) -> None:
    """It has as many tokens as the round, which changes."""
    names = {"seed/read": 0, "control/pool": 0, "rounds/01/scored": 1, "rounds/01/packed": 0}
    run = run_with(tmp_path / "run", {**names, "control/sft/01/training": 0, "control/sft/01/holdout": 2})
    given = config(control="sft")
    assert retry_failed(run, given, layout(given)) == {"rounds/01/scored": 1}
    assert not run.exists("control/sft/01/training") and not run.exists("control/sft/01/holdout")
    assert run.done("control/pool")
    run = run_with(tmp_path / "other", {**names, "rounds/01/scored": 0, "control/sft/01/holdout": 2})
    assert retry_failed(run, given, layout(given)) == {"control/sft/01/holdout": 2}, "only its failed rows"


def test_a_fork_leaves_working_tables_out(tmp_path: Path) -> None:
    names = ["seed/read", "seed/instructions", "rounds/01/scored", "rounds/01/scored-answered"]
    old = run_with(tmp_path / "old", dict.fromkeys(names, 0))
    assert fork(old.uri, str(tmp_path / "new"), config(), layout(config())) == names[:3]
    assert Run.at(str(tmp_path / "new")).children("rounds/01") == ["scored"]


def test_an_interrupted_fork_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = run_with(tmp_path / "old", dict.fromkeys(["seed/read", "seed/instructions"], 0))
    old.write_text("cache/00.jsonl", "{}")
    copy, copied = module._copy, []

    def stopped(*arguments: Any) -> None:
        if copied:
            raise KeyboardInterrupt
        copied.append(copy(*arguments))

    monkeypatch.setattr(module, "_copy", stopped)
    with pytest.raises(KeyboardInterrupt):
        fork(old.uri, str(tmp_path / "new"), config(), layout(config()))
    monkeypatch.setattr(module, "_copy", copy)
    assert fork(old.uri, str(tmp_path / "new"), config(), layout(config())) == ["seed/read", "seed/instructions"]
    new = Run.open(config(), str(tmp_path / "new"))
    assert new.manifest("seed/instructions").rows == 6
    assert new.exists("cache/00.jsonl"), "answered requests are not paid for again"


def test_a_fork_needs_an_existing_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run"):
        fork(str(tmp_path / "old"), str(tmp_path / "new"), config(), layout(config()))


def test_only_failed_rows_are_asked_again(tmp_path: Path, ray_local: None) -> None:
    failed = {"seed/read": 0, "seed/instructions": 0, "rounds/01/scored": 2, "rounds/01/generated": 1}
    run = run_with(tmp_path / "run", {**failed, "rounds/01/training": 0})
    run.write_text("summary.json", "{}")
    assert retry_failed(run, config(), layout(config())) == {"rounds/01/scored": 2}
    assert run.manifest("seed/instructions").rows == 6
    assert run.done("rounds/01/scored") is None
    (part,) = (tmp_path / "run/rounds/01/scored").glob("*.parquet")
    assert pq.read_table(part)["instruction_id"].to_pylist() == ["2", "3", "4", "5"]
    assert not run.exists("rounds/01/generated") and not run.exists("rounds/01/training")
    assert not run.exists("summary.json")


def test_a_retry_deletes_the_answers_of_the_student_before_it(tmp_path: Path, ray_local: None) -> None:
    tables = layout(config(curriculum={"rounds": 2}))
    kept, retried, later = tables.round(1).candidates, tables.round(1).scored, tables.round(2).scored
    turn = tables.evaluation.working("turn_1")
    stale = [one.working("answered") for one in (retried, later, turn)] + [turn]
    run = run_with(tmp_path / "run", {retried.path: 2} | {one.path: 0 for one in [kept.working("answered"), *stale]})
    assert not run.exists(tables.evaluation.path), "the run was stopped between two turns"
    assert retry_failed(run, config(), tables) == {retried.path: 2}
    assert [one.path for one in stale if run.exists(one.path)] == []
    assert run.done(kept.working("answered")), "it does not depend on the failed rows"


@pytest.mark.parametrize("trained_on", [{}, {"rounds/01/training": 0}], ids=["stopped before mix", "mixed"])
def test_a_retry_of_scores_deletes_their_plan(trained_on: dict[str, int], tmp_path: Path, ray_local: None) -> None:
    run = run_with(tmp_path / "run", {"seed/read": 0, "rounds/01/scored": 1, **trained_on})
    for file in ("seed_data.jsonl", "rounds/01/plan.json"):
        run.write_text(file, "{}")
    assert retry_failed(run, config(), layout(config())) == {"rounds/01/scored": 1}
    assert not run.exists("rounds/01/plan.json"), "a stored plan is not logged again"
    assert run.exists("seed_data.jsonl"), "it does not depend on the scores"


def test_a_run_without_failed_rows_is_unchanged(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", {"seed/read": 0, "seed/instructions": 0})
    assert retry_failed(run, config(), layout(config())) == {}
    assert run.manifest("seed/instructions").rows == 6
