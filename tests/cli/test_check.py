"""`tapir check` refuses the same configs as a run; its guesses add up, and a pilot predicts a run's usage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.api.offline import check_offline
from tapir_ray.api.opening import opened
from tapir_ray.cli import main
from tapir_ray.cli.check import check
from tapir_ray.config import Config, load, parse
from tapir_ray.cost.estimate import Estimate, estimated, estimated_regeneration
from tapir_ray.cost.pilot import measured
from tapir_ray.cost.seed_sample import Seed, read_seed
from tapir_ray.cost.size import Size
from tapir_ray.cost.sizes import Sizes, bounds, guessed
from tapir_ray.curriculum import tasks
from tapir_ray.errors import InputError, Stopped
from tapir_ray.run.run import Run
from tapir_ray.steps.context import Context
from tests.llm.endpoint import Choice, running
from tests.runs import ROOT

PRICE = {"input": 1.0, "output": 2.0}


def config(seed_path: Path, url: str = "http://127.0.0.1:9/v1", **sections: Any) -> Config:
    teacher = {"model": "m", "base_url": url, "api_key_env": None, "price": PRICE, **sections.pop("teacher", {})}
    return parse(
        {
            "name": "checked",
            "seed_data": {"path": str(seed_path), **sections.pop("seed_data", {})},
            "holdout": {"rows": 10},
            "student": {"create": {}, "max_model_len": 512, "sampling": {"max_tokens": 8}},
            "train": {"sequence_length": 512},
            "teacher": teacher,
            "judge": {"same_as": "teacher", "repeat_share": 0.0},
            "curriculum": {"rounds": 2, "weights": {"Math": 0.4, "Grammar": 0.4, "Others": 0.2}},
            "score": {"max_rows": 40},
            "expand": {"size": 20},
            **sections,
        }
    )


@pytest.fixture
def seed_path(tmp_path: Path) -> Path:
    path = tmp_path / "seed.jsonl"
    rows = [{"instruction": f"question {n} of many others", "output": f"answer {n}"} for n in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    return path


def teacher(body: dict[str, Any], attempt: int) -> Choice:
    """Labels every other row Math, writes a new instruction for each seed, and judges."""
    text = body["messages"][-1]["content"]
    if "<labels>" in text:
        reply = "Math" if len(text) % 2 else "Grammar"
    elif "<answer_1 " in text:
        reply = "Both are fair. Scores: 9 3".replace(". S", ".\nS")
    elif "new_instruction" in text:
        reply = f"<new_instruction>new one number {body['seed']}</new_instruction>"
    else:
        reply = "an answer in five words"
    return Choice(reply)


@contextmanager
def context_of(one: Config, folder: Path) -> Iterator[Context]:
    run = Run.open(one, str(folder))
    with opened(run, one, tasks.load(one.curriculum), None) as context:
        yield context


def total(estimate: Estimate) -> Size:
    return sum((line.size for line in estimate.lines), Size())


def test_the_rows_of_a_run_are_counted_over_all_rounds(seed_path: Path) -> None:
    one = config(seed_path)
    seed, taxonomy = read_seed(one), tasks.load(one.curriculum)
    assert seed.usable == 100, "a repeated row counts once"
    lines = {
        (line.stage, line.role): line for line in estimated(one, seed, taxonomy, guessed(one, seed, taxonomy)).lines
    }
    assert lines["round 1 score", "judge"].size.calls == pytest.approx(2 * (40 + 10))
    assert lines["round 2 score", "judge"].size.calls == pytest.approx(2 * (40 + 10))
    assert lines["evaluate", "judge"].size.calls == pytest.approx(2 * 10)
    assert lines["round 1 respond", "teacher"].rows == 20
    assert ("label a sample", "teacher") not in lines, "classify.by none asks nobody"
    for line in lines.values():
        assert line.size.tokens <= line.most.tokens
        assert line.cost == pytest.approx((line.size.input + 2 * line.size.output) / 1e6)


def test_without_a_selection_only_the_holdout_is_scored(seed_path: Path) -> None:
    """The 30 rows of round 1 and the new ones of round 2 are neither answered nor judged."""
    weights = {"Math": 0.4, "Grammar": 0.4, "Others": 0.2}
    one = config(seed_path, curriculum={"rounds": 2, "weights": weights, "difficulty": {"select": "none"}})
    seed, taxonomy = read_seed(one), tasks.load(one.curriculum)
    lines = estimated(one, seed, taxonomy, guessed(one, seed, taxonomy)).lines
    assert {line.stage: round(line.size.calls) for line in lines if line.role == "judge"} == {
        "round 1 score": 20, "round 2 score": 20, "evaluate": 20,
    }  # fmt: skip
    assert {line.stage for line in lines if line.role == "teacher"} == {
        f"round {number} {stage}" for number in (1, 2) for stage in ("expand", "respond")
    }


@pytest.mark.parametrize(("initial_sft", "rows"), [("on", 27), ("off", 40)])
def test_unseen_candidates_are_bounded_by_what_the_initial_sft_leaves(
    seed_path: Path, initial_sft: str, rows: int
) -> None:
    """The initial SFT takes 70 % of 90 rows and leaves 27. Without it 40 of 90 are scored (`score.max_rows`)."""
    share = {"initial_share": 0.7} if initial_sft == "on" else {}
    train = {"sequence_length": 512, "initial_sft": initial_sft, **share}
    one = config(seed_path, train=train, score={"max_rows": 40, "candidates": "unseen"})
    seed, taxonomy = read_seed(one), tasks.load(one.curriculum)
    lines = {line.stage: line for line in estimated(one, seed, taxonomy, guessed(one, seed, taxonomy)).lines}
    assert lines["round 1 score"].rows == pytest.approx(rows + 10, abs=0.5)
    assert lines["round 2 score"].rows == pytest.approx(40 + 10, abs=0.5), "and 20 new rows"


def test_the_control_is_in_the_forecast(seed_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of two rounds has the control answer the ten holdout rows, and the judge score them in both orders."""
    with running(teacher) as seen:
        alone = check(config(seed_path, seen.url), str(tmp_path / "run"))
        one = config(seed_path, seen.url, control="sft", train={"sequence_length": 512, "epochs": 3}, mix={"size": 80})
        report = check(one, str(tmp_path / "run"))
    calls = {line["stage"]: line["calls"] for line in report["stages"] if line["stage"].endswith("control")}
    assert calls == {"round 1 control": 20, "round 2 control": 20}
    assert report["tokens"] > alone["tokens"] and alone["control"] is None
    seed, taxonomy = read_seed(one), tasks.load(one.curriculum)
    lines = estimated(config(seed_path, control="random"), seed, taxonomy, guessed(one, seed, taxonomy)).lines
    asked = {line.role: line.rows for line in lines if line.stage == "round 1 control"}
    assert asked == {"teacher": 20 + 20, "judge": 10}, "as many draws as the round has, each answered"
    pair = sum(len(f"question {n} of many others") + len(f"answer {n}") for n in range(100)) / 100 / 4
    response = sum(len(f"answer {n}") for n in range(100)) / 100 / 4
    tokens = pytest.approx(2 * 3 * 80 * pair / response, rel=0.02)
    assert report["control"] == {"control": "sft", "student_answers": 20, "training_tokens": tokens}
    shown = capsys.readouterr().out
    assert "control sft: 20 more answers of the student, and about" in shown and "- control: a round trains" in shown


@pytest.mark.parametrize(("engine", "calls"), [("vllm", []), ("openai", [4 * 40 + 10] * 2 + [10])])
def test_a_measure_without_a_judge_is_forecast_without_one(seed_path: Path, engine: str, calls: list[int]) -> None:
    """A student behind an endpoint is asked for its answer and for three samples of each row; holdout rows need no
    samples."""
    student = {"model": "s", "max_model_len": 512, "engine": engine}
    behind = {"endpoint": {"model": "s", "api_key_env": None, "price": PRICE}} if engine == "openai" else {}
    difficulty = {"measure": "tests.steps.test_score:disagreement"}
    one = config(seed_path, judge={}, student={**student, **behind}, curriculum={"rounds": 2, "difficulty": difficulty})
    seed, taxonomy = read_seed(one), tasks.load(one.curriculum)
    lines = estimated(one, seed, taxonomy, guessed(one, seed, taxonomy)).lines
    assert {line.role for line in lines} == ({"teacher", "student"} if calls else {"teacher"})
    assert [round(line.size.calls) for line in lines if line.role == "student"] == calls


def test_a_measure_of_losses_is_forecast_without_requests(seed_path: Path) -> None:
    difficulty = {"measure": "tests.curriculum.test_measures:ratio"}
    one = config(seed_path, judge={}, curriculum={"rounds": 2, "difficulty": difficulty})
    seed, taxonomy = read_seed(one), tasks.load(one.curriculum)
    lines = estimated(one, seed, taxonomy, guessed(one, seed, taxonomy)).lines
    asked = {(line.stage, line.role) for line in lines}
    assert asked == {(f"round {number} {stage}", "teacher") for number in (1, 2) for stage in ("expand", "respond")}


@pytest.mark.parametrize(
    ("responses", "operations", "expected"),
    [
        ("replace", ["classify", "rebalance", "answer", "rewrite", "judge"],
         {"classify": (100, 100), "answer": (40, 40), "judge": (30, 60)}),
        ("fill", ["classify", "rebalance", "answer", "rewrite", "judge"],
         {"classify": (100, 100), "answer": (10, 10), "rewrite": (30, 30), "judge": (30, 60)}),
        ("fill", ["classify", "answer"], {"classify": (100, 100), "answer": (25, 25)}),
        ("keep", ["filter"], {}),
    ],
)  # fmt: skip
def test_the_operations_of_a_regeneration_are_counted(
    tmp_path: Path, responses: str, operations: list[str], expected: dict[str, tuple[int, int]]
) -> None:
    """Each operation counts the rows that reach it: labels before the balance, comparisons only of rows with an old
    answer."""
    path = tmp_path / "seed.jsonl"
    rows = [{"instruction": f"question {n}", "output": f"answer {n}" if n % 4 else ""} for n in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    regenerate = {"operations": operations, **({"balanced_rows": 40} if "rebalance" in operations else {})}
    classify = {"by": "teacher" if "classify" in operations else "none"}
    one = config(path, seed_data={"responses": responses}, classify=classify, regenerate=regenerate)
    seed, taxonomy = read_seed(one), tasks.load(one.curriculum)
    lines = estimated_regeneration(one, seed, taxonomy, guessed(one, seed, taxonomy)).lines
    assert {line.stage: (round(line.rows), round(line.size.calls)) for line in lines} == expected
    assert all(line.size.tokens <= line.most.tokens for line in lines)


def test_a_regeneration_is_checked_but_has_no_pilot(
    seed_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = config(seed_path, regenerate={"operations": ["filter"]})
    assert check(one, str(tmp_path / "run"), as_json=True)["tokens"] == 0, "nobody is asked, so no endpoint is needed"
    with pytest.raises(InputError, match="--pilot needs a config that trains"):
        check(one, str(tmp_path / "run"), pilot=5)


def test_a_pilot_predicts_the_usage_of_a_whole_run(ray_local: None, seed_path: Path, tmp_path: Path) -> None:
    """All rows need about the same tokens here, so the estimate must be nearly exact. The pilot's usage is recorded in
    its run."""
    with running(teacher) as seen:
        one = config(seed_path, seen.url, classify={"by": "teacher"}, seed_data={"responses": "replace"})
        seed = read_seed(one)
        with context_of(one, tmp_path / "pilot") as context:
            sizes = measured(context, seed, 12)
            used = context.roles.usage()
        assert sum(role["requests"] for role in used.values()) == len(seen.requests)
        (usage,) = (tmp_path / "pilot/usage").iterdir()
        assert json.loads(usage.read_text())["counts"]["teacher"]["label"]["requests"] == 12
    estimate = estimated(one, seed, tasks.load(one.curriculum), sizes)
    calls = {(line.stage, line.role): line.size.calls for line in estimate.lines}
    assert calls["label the seed data", "teacher"] == pytest.approx(100)
    assert calls["answer the seed data", "teacher"] == pytest.approx(100)
    assert calls["round 1 score", "judge"] == pytest.approx(100)
    assert calls["round 2 expand", "teacher"] == pytest.approx(20)
    label = next(line for line in estimate.lines if line.stage == "label the seed data")
    sent = [body for body in seen.requests if "<labels>" in body["messages"][0]["content"]]
    words = sum(len(body["messages"][0]["content"].split()) for body in sent) / len(sent)
    assert label.size.input == pytest.approx(100 * words, rel=0.02)
    _, low, high = estimate.tokens()
    assert low <= total(estimate).tokens <= high


def test_a_pilot_stops_at_the_budget(ray_local: None, seed_path: Path, tmp_path: Path) -> None:
    with running(teacher) as seen:
        one = config(seed_path, seen.url, classify={"by": "teacher"}, budget={"max_tokens": 1500})
        with context_of(one, tmp_path / "pilot") as context, pytest.raises(Stopped, match="budget"):
            measured(context, read_seed(one), 5)


def test_check_prints_a_table_or_json_and_makes_no_run(
    seed_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(teacher) as seen:
        one = config(seed_path, seen.url, budget={"max_cost": 0.000001})
        report = check(one, str(tmp_path / "run"))
        shown = capsys.readouterr()
        assert "round 2 respond" in shown.out and f"{report['tokens']:,} tokens" in shown.out
        assert "budget.max_cost" in shown.out and "the judge is the teacher" in " ".join(shown.out.split())
        assert "warning" not in shown.err, "warnings are rows of the table"
        check(one, str(tmp_path / "run"), as_json=True)
        again = json.loads(capsys.readouterr().out)
        assert {row["name"] for row in again["checks"]} >= {"config", "teacher", "memory: training", "disk"}
        # The free space differs from one moment to the next.
        assert {**again, "checks": None} == {**report, "checks": None}
        assert not seen.requests and not (tmp_path / "run").exists()


def test_check_refuses_the_configs_that_run_refuses(seed_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        check(config(seed_path), str(tmp_path / "run"))
    seed_path.write_text("{}\n")
    with running(teacher) as seen, pytest.raises(InputError, match=r"seed\.jsonl:1"):
        check(config(seed_path, seen.url), str(tmp_path / "run"))


def test_the_tasks_of_seed_rows_without_labels_are_assumed_to_have_the_published_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`curriculum.tasks: seed` needs labels, which the rows of most users get in the run alone."""
    overrides = ["curriculum.tasks=seed", "curriculum.weights={}", "control=none"]
    estimate = check(load(ROOT / "tests/loop.yaml", overrides), str(tmp_path / "run"))
    assert estimate["tokens"] > 0
    assert any("--pilot labels some" in line for line in estimate["assumes"])
    capsys.readouterr()


@pytest.mark.parametrize(("gpus", "status"), [(0, 0), (99, 1)])
def test_a_failed_check_is_an_exit_status(
    gpus: int, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = ["--set", f"resources.student.gpus={gpus}"]
    assert main(["check", str(ROOT / "tests/loop.yaml"), "--run-dir", str(tmp_path / "run"), *claims]) == status
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["resources"]]
    assert [row[1] for row in rows] == ["fail" if status else "pass"]


def test_a_pilot_of_no_rows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["check", "configs/demo.yaml", "--pilot", "0"])
    assert error.value.code == 2 and "at least 1" in capsys.readouterr().err


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(1, 500),
    rounds=st.integers(0, 4),
    shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=3),
    expanded=st.floats(0, 1),
    fresh=st.floats(0, 1),
)
def test_an_estimate_is_never_above_its_bound(
    rows: int, rounds: int, shares: list[float], expanded: float, fresh: float
) -> None:
    one = config(Path("seed.jsonl"), curriculum={"rounds": rounds, "weights": {"Math": 0.5, "Grammar": 0.5}})
    taxonomy = tasks.load(one.curriculum)
    row = {"messages": [{"role": "user", "content": "what?"}], "response": "that", "task": None}
    seed = Seed(usable=rows, sample=[row])
    seed.strata["[]"] = rows
    sizes = Sizes(guessed(one, seed, taxonomy).rows, bounds(one, seed, taxonomy), expanded=expanded, fresh=fresh)
    names = ["Math", "Grammar", "Writing"][: len(shares)]
    sizes.tasks = {name: share / sum(shares) for name, share in zip(names, shares, strict=True)}
    for line in estimated(one, seed, taxonomy, sizes).lines:
        assert 0 <= line.size.tokens <= line.most.tokens * (1 + 1e-9)


def test_an_unknown_task_to_style_is_refused_before_anything_is_spent(seed_path: Path) -> None:
    """The tasks of a column are known only once the rows are read."""
    assert set(check_offline(config(seed_path, rewrite={"tasks": ["Math"]})).styles) == {"Math"}
    with pytest.raises(InputError, match=r"rewrite\.tasks: unknown task 'Maths'; the tasks are Math, Reasoning"):
        check_offline(config(seed_path, rewrite={"tasks": ["Maths"]}))
    own: dict[str, Any] = {"curriculum": {"tasks": "seed"}, "rewrite": {"tasks": ["Chess"]}}
    with pytest.raises(InputError, match=r"rewrite\.tasks: unknown task 'Chess'"):
        check_offline(config(seed_path, **own))
    assert check_offline(config(seed_path, seed_data={"task_column": "kind"}, **own)).styles == {}
    assert check_offline(config(seed_path, **own), labelled=True).styles == {}


def test_the_suites_of_every_student_are_counted(seed_path: Path, tmp_path: Path) -> None:
    suites = {"evaluate": {"suites": ["holdout", "tests.cli.test_eval:Lengths", "tests.steps.test_evaluate:Capitals"]}}
    with running(teacher) as seen:
        report = check(config(seed_path, seen.url, **suites, control="sft"), str(tmp_path / "run"), as_json=True)
    assert report["suites"] == {"Lengths": {"students": 3, "answers": 18, "judge_requests": 0}, "Capitals": None}
    assert "the suite Capitals is not counted, as it has no forecast" in report["assumes"]


def test_a_model_is_checked_without_seed_data_and_endpoints(tmp_path: Path) -> None:
    content = {"name": "x", "student": {"model": "owner/student"}}
    one = parse({**content, "evaluate": {"only": True, "suites": ["tests.cli.test_eval:Lengths"]}})
    report = check(one, str(tmp_path / "run"), as_json=True)
    assert report["suites"] == {"Lengths": {"students": 1, "answers": 6, "judge_requests": 0}}
    assert report["tokens"] == 0 and report["stages"] == []
