"""Real half of the learning benchmark: splits without leaks, arms that share tokens and steps, exact intervals."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.learning_real_data import COUNTED, FILES, SHARES, UNIFORM, Split, counted_rows, reasons, split
from benchmarks.learning_real_loss import difference, loss_by_task, mean_of
from benchmarks.learning_real_trial import ARMS, CONTRASTS, Setting, changes_of, config_of
from tapir_ray.data.schemas import OK, SEED, conform, instruction_id

ROOT = Path(__file__).parents[2]
WORDS = [
    f"{first}{second}" for first in ("ba", "ko", "mi", "nu", "te", "ra") for second in ("lor", "sen", "dak", "vim")
]


def row(task: str, number: int) -> dict[str, Any]:
    # Random words: rows of one template would count as near-duplicates.
    chosen = random.Random(f"{task} {number}")
    question, answer = (" ".join([task, *chosen.choices(WORDS, k=count)]) for count in (9, 5))
    messages = [{"role": "user", "content": question}]
    return {
        "instruction_id": instruction_id(messages),
        "split": SEED,
        "messages": messages,
        "response": answer,
        "task": task,
        "status": OK,
        "tokens": len(answer),
        "whole": len(question) + len(answer),
    }


def made(each: int) -> list[dict[str, Any]]:
    return [row(task, number) for task in SHARES for number in range(each)]


def ids(table: pa.Table) -> set[str]:
    return set(table["instruction_id"].to_pylist())


def test_a_split_has_no_row_twice_and_keeps_rows_like_the_holdout_out() -> None:
    held, seeds = 10, 50
    config = config_of("model", Setting(seed_rows=seeds), seed=0, changes={"filter.ngram": 0})
    alike = "Please describe in detail how the old harbour bridge was rebuilt after the great storm of {}"
    twins = [
        row("Dolly", 0) | {"messages": [{"role": "user", "content": alike.format(year)}]} for year in ("1901", "1902")
    ]
    twins = [twin | {"instruction_id": instruction_id(twin["messages"])} for twin in twins]
    kinds = []
    for seed in range(8):
        seeded = config.model_copy(update={"random_seed": seed})
        found, left_out = split(conform([*made(60), *twins], COUNTED), seeded, held, seeds)
        parts = [ids(found.holdout), ids(found.seeds), ids(found.pool)]
        assert sum(map(len, parts)) == len(set.union(*parts)), "no row may be in two parts"
        counts = {task: found.holdout["task"].to_pylist().count(task) for task in SHARES}
        assert counts == dict.fromkeys(SHARES, held), "the holdout is balanced"
        shares = {task: found.seeds["task"].to_pylist().count(task) / seeds for task in SHARES}
        assert shares == SHARES, "the seed data is skewed"
        inside = [twin["instruction_id"] in parts[0] for twin in twins]
        outside = [twin["instruction_id"] in parts[1] | parts[2] for twin in twins]
        assert not (any(inside) and any(outside)), "a twin of a holdout row would be trained on"
        kinds.append(left_out.get("near_duplicate", 0))
    assert 1 in kinds, "a twin is counted by its reason"


def test_too_few_rows_of_a_task_are_refused() -> None:
    config = config_of("model", Setting(), seed=0)
    with pytest.raises(SystemExit, match=r"task Alpaca has .* lower --seed-rows"):
        split(conform(made(30), COUNTED), config, 10, 1000)


def test_the_arms_of_a_contrast_differ_only_in_what_it_names() -> None:
    rows = conform(made(400), COUNTED)
    setting = Setting(seed_rows=100)
    plain = config_of("model", setting, seed=0)
    found, _ = split(rows, plain, 10, 100)
    configs = {
        name: config_of("model", setting, 0, changes_of(arm, setting, plain, found)).model_dump()
        for name, arm in ARMS.items()
    }
    seed_share = configs["A1"]["curriculum"]["weights"]
    assert sum(seed_share.values()) == pytest.approx(1.0) and max(seed_share.values()) > 0.3
    a2, a7 = configs["A2"], configs["A7"]
    assert (a2["curriculum"]["difficulty"].pop("select"), a7["curriculum"]["difficulty"].pop("select")) == (
        "none",
        "hard",
    )
    a2["expand"].pop("sources"), a7["expand"].pop("sources")
    assert a2 == a7, "A7 − A2 is the selection alone"
    assert {one for pair in CONTRASTS for one in pair[:2]} == set(ARMS)


def test_a_loss_counts_tokens_and_not_rows() -> None:
    losses = {task: [(10.0, 10), (2.0, 1)] for task in SHARES}
    assert loss_by_task(losses)["Math"] == pytest.approx(12 / 11)
    assert mean_of(losses, SHARES) == pytest.approx(12 / 11)


def test_the_interval_is_that_of_a_mean_of_independent_rows() -> None:
    """400 rows a task of one token: the standard error of the mean over five tasks is 0.5 / √2000."""
    generator = np.random.default_rng(1)
    before = {task: [(float(loss), 1) for loss in generator.normal(3.0, 1.0, 400)] for task in SHARES}
    after = {task: [(loss + generator.normal(0.2, 0.5), 1) for loss, _ in rows] for task, rows in before.items()}
    found = difference([(after, before)], UNIFORM)
    error = 0.5 / 2000**0.5
    assert found.mean == pytest.approx(0.2, abs=3 * error)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1), "rows are paired: 1.0 does not count"
    both = difference([(after, before), (before, after)], UNIFORM)
    assert both.mean == pytest.approx(0.0)
    assert both.high - both.low == pytest.approx(2 * 1.96 * error / 2**0.5, rel=0.1), "seeds are drawn independently"


def line(arm: str, seed: int, loss: float) -> dict[str, Any]:
    rounds = [{"steps": 2, "tokens": 90, "response_tokens": 50, "pairs": 5, "by_task": dict.fromkeys(SHARES, 1)}] * 3
    return {
        "arm": arm,
        "seed": seed,
        **vars(Setting()),
        "before": {task: [[20.0, 10]] * 3 for task in SHARES},
        "after": {task: [[loss, 10]] * 3 for task in SHARES},
        "rounds": rounds,
        "distinct": 14,
        "scored_tokens": 0,
        "cpu_seconds": {"train": 3.0},
    }


def test_a_page_compares_within_a_seed_and_names_the_missing_trainings() -> None:
    from benchmarks.learning_real_report import contrasts, figures, page

    arms = {
        "A0": {0: line("A0", 0, 16.0), 1: line("A0", 1, 10.0)},
        "A1": {0: line("A1", 0, 15.0), 1: line("A1", 1, 8.0)},
        "A2": {0: line("A2", 0, 14.5)},
    }
    fresh, balance = contrasts(arms)
    assert fresh["uniform"]["mean"] == {"mean": -0.15, "low": -0.15, "high": -0.15}
    assert {seed: one["mean"] for seed, one in fresh["uniform"]["by_seed"].items()} == {"0": -0.1, "1": -0.2}
    assert (balance["seeds"], balance["seed"]["mean"]["mean"]) == ([0], -0.05), "A1 of seed 1 has no partner"
    setting = vars(Setting())
    figured = {name: figures(list(seeds.values())) for name, seeds in arms.items()}
    text = page(arms, {"setting": setting, "arms": figured, "contrasts": [fresh, balance]})
    assert "missing:\nA7 of seed 0, A2 of seed 1, A7 of seed 1." in text
    assert "| new rows (A1 − A0) | -0.1500 [-0.1500, -0.1500] | -0.1000" in text
    complete = {arm: {0: line(arm, 0, 16.0), 1: line(arm, 1, 16.0)} for arm in ARMS}
    figured = {name: figures(list(seeds.values())) for name, seeds in complete.items()}
    assert "missing" not in page(complete, {"setting": setting, "arms": figured, "contrasts": contrasts(complete)})
    assert "A0 of seed 0" in page({}, {"setting": setting, "arms": {}, "contrasts": []})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the five files, 60 rows each."""
    data = tmp_path_factory.mktemp("data")
    (data / "seeds").mkdir()
    for task, name in FILES.items():
        rows = [row(task, number) for number in range(60)]
        pairs = [{"instruction": one["messages"][0]["content"], "input": "", "output": one["response"]} for one in rows]
        (data / "seeds" / name).write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return data


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A very small student with the tokenizer of the rows."""
    from tapir_ray.config.models import CreateModel
    from tapir_ray.train.create_student import create_student

    folder = str(tmp_path_factory.mktemp("model") / "student")
    texts = [text for one in made(60) for text in (one["messages"][0]["content"], one["response"])]
    sizes = CreateModel(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocab_size=400)
    create_student(sizes, texts, folder, None, 0)
    return folder


SMALL = Setting(tokens=6144, seed_rows=50, held_each=4)


@pytest.fixture(scope="module")
def parts(files: Path, model: str) -> Split:
    config = config_of(model, SMALL, seed=0)
    rows = counted_rows(files / "seeds", config, model)
    assert not reasons(rows)
    return split(rows, config, SMALL.held_each, SMALL.seed_rows)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_trains_its_own_rows_for_the_same_steps(name: str, parts: Split, model: str) -> None:
    from benchmarks.learning_real_trial import Trial

    trial = Trial(ARMS[name], 0, SMALL, model, parts)
    line = trial.run()
    assert [entry["steps"] for entry in line["rounds"]] == [2, 2, 2]
    tokens = sum(entry["tokens"] for entry in line["rounds"])
    assert 0.8 * SMALL.tokens < tokens <= SMALL.tokens, "packed sequences are nearly full"
    assert set(trial.trained) <= ids(parts.seeds if name == "A0" else parts.pool), "A0 sees the seed rows alone"
    assert (line["scored_tokens"] > 0) == (name == "A7"), "only a selection measures losses"
    assert mean_of(line["after"], UNIFORM) < mean_of(line["before"], UNIFORM) + 0.01
    assert {task: len(rows) for task, rows in line["after"].items()} == dict.fromkeys(SHARES, SMALL.held_each)


@pytest.mark.slow
def test_a_training_with_a_line_is_not_done_again(files: Path, model: str, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    environment = {**os.environ, "TAPIR_DATA": str(files), "TAPIR_LEARNING": str(tmp_path), "OMP_NUM_THREADS": "1"}
    sizes = ["--tokens", "3072", "--seed-rows", "50", "--held-each", "4", "--seeds", "0", "--model", model]
    command = [sys.executable, "benchmarks/learning_real.py", "run", *sizes, "--results", str(results), "--arms"]

    def run(*arms: str) -> str:
        return subprocess.run(
            [*command, *arms], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert "1 trainings to do" in run("A0")
    assert "1 trainings to do" in run("A0", "A7")
    first, second = (json.loads(line) for line in results.read_text().splitlines())
    assert (first["arm"], second["arm"]) == ("A0", "A7")
    assert first["before"] == second["before"], "both begin at the same student"
    assert "0 trainings to do" in run("A0", "A7")
