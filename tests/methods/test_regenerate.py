"""`tapir regenerate` as a user runs it, on real rows against the simulator: killed, continued, checked row by row."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
import yaml

from tapir_ray.cli import run as launch
from tapir_ray.config import parse
from tapir_ray.errors import InputError
from tests.runs import ENDPOINT, IN_FLIGHT, ROWS_PER_BLOCK, Driver, kill

ROWS, PARTS, BALANCED = 240, 4, 150
MOST_TOKENS = 42_000
"""Enough for the labels and two shards, not for all shards."""


def write_config(folder: Path, alpaca: Path) -> Path:
    """Writes a config of all operations.

    Every other answer of the source is spoilt; the simulator's answers are those of the file.
    """
    source = [json.loads(line) for line in alpaca.read_text().splitlines()[:ROWS]]
    spoilt = [{**row, "output": "no idea"} if at % 2 else row for at, row in enumerate(source)]
    spoilt[-1] = spoilt[0]
    spoilt[-2] = {"instruction": "What is asked in the evaluation?", "output": "a"}
    for name, rows in (("source", spoilt), ("answers", source), ("evaluation", [spoilt[-2]])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "regenerate",
        "simulator": {
            "scenario": "recorded",
            "path": str(folder / "answers.jsonl"),
            "latency_s": 0.4,
            "log": str(folder / "log.jsonl"),
        },
        "seed_data": {"path": str(folder / "source.jsonl"), "responses": "replace", "license": "cc-by-nc-4.0"},
        "regenerate": {
            "operations": ["filter", "decontaminate", "classify", "rebalance", "answer", "rewrite", "judge"],
            "balanced_rows": BALANCED,
            "shards": {"rows": ROWS // PARTS, "at_once": 2},
        },
        "filter": {"evaluation_sets": [str(folder / "evaluation.jsonl")]},
        "teacher": {**ENDPOINT, "model": "recorded-answers", "sampling": {"max_tokens": 1024}},
        "classify": {"by": "teacher"},
        "resources": {"cpus": 4, "transform_cpus": 0.4, "rows_per_block": ROWS_PER_BLOCK},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def table(driver: Driver, name: str) -> pa.Table:
    files = [f"{driver.run.path(name)}/{file}" for file in driver.run.read_json(f"{name}/_manifest.json")["files"]]
    return pads.dataset(files, format="parquet").to_table()


@pytest.mark.restart
@pytest.mark.timeout(900)
def test_a_dataset_is_regenerated_and_a_killed_run_continues(tmp_path: Path, data_folder: Path) -> None:
    driver = Driver(write_config(tmp_path, data_folder / "seeds/alpaca_9k.jsonl"), tmp_path / "run", "regenerate")
    first = "shards/00000/regenerated/_manifest.json"
    process = driver.start()
    assert driver.wait_for(first, process), driver.printed()
    assert kill(process), "the run ended before the first shard was seen"
    committed = Path(driver.run.path(first)).stat().st_mtime_ns
    driver.finish()

    assert Path(driver.run.path(first)).stat().st_mtime_ns == committed, "a finished shard was made again"
    asked = driver.requests()
    assert sum(asked.values()) - len(asked) <= 2 * IN_FLIGHT, "answered requests were asked again"

    names = [f"shards/{number:05d}/regenerated" for number in range(PARTS)]
    rows = [row for name in names for row in table(driver, name).to_pylist()]
    assert [table(driver, name).num_rows for name in names] == [ROWS // PARTS] * PARTS
    assert len({row["source"] for row in rows}) == ROWS
    reasons = Counter((row["reason"] or "ok").partition(":")[0] for row in rows)
    assert reasons["ok"] == BALANCED and reasons["duplicate"] == 1 and reasons["contamination_evaluation"] == 1
    kept = Counter(row["preferred"] for row in rows if row["status"] == "ok")
    assert kept["new"] and not kept["old"], "a spoilt answer was kept"
    assert all(row["response"] != "no idea" for row in rows if row["status"] == "ok")

    summary = driver.run.read_json("summary.json")
    assert (
        summary["rows"] == ROWS == summary["ok"] + sum(summary["filtered"].values()) + sum(summary["failed"].values())
    )
    assert summary["usage"]["teacher"]["requests"] > 0 and summary["shards"] == PARTS
    _, front, card = driver.run.read_text("dataset/README.md").split("---\n", 2)
    assert yaml.safe_load(front)["configs"][0]["data_files"][0]["path"] == "data/*.parquet"
    assert f"| in this dataset | {BALANCED} |" in card

    import datasets

    loaded = datasets.load_dataset(driver.run.path("dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == BALANCED
    assert all(row["messages"][-1]["role"] == "assistant" for row in loaded)


@pytest.mark.restart
@pytest.mark.timeout(900)
def test_a_budget_spans_all_shards_and_a_larger_one_continues(tmp_path: Path, data_folder: Path) -> None:
    config = write_config(tmp_path, data_folder / "seeds/alpaca_9k.jsonl")
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**content, "budget": {"max_tokens": MOST_TOKENS}}))
    driver = Driver(config, tmp_path / "run", "regenerate")
    assert driver.start().wait(500) == 3, driver.printed()
    assert "the budget is used up" in driver.printed()
    spent = driver.tokens()
    assert 0.5 * MOST_TOKENS < spent <= MOST_TOKENS
    tables = [f"shards/{number:05d}/regenerated/_manifest.json" for number in range(PARTS)]
    committed = {name: Path(driver.run.path(name)).stat().st_mtime_ns for name in tables if driver.run.exists(name)}
    assert 0 < len(committed) < PARTS, committed

    config.write_text(yaml.safe_dump({**content, "budget": {"max_tokens": 10 * MOST_TOKENS}}))
    driver.finish()
    assert {name: Path(driver.run.path(name)).stat().st_mtime_ns for name in committed} == committed
    assert max(driver.requests().values()) == 1, "an answered request was asked again"
    summary = driver.run.read_json("summary.json")
    used = sum(role["input_tokens"] + role["output_tokens"] for role in summary["usage"].values())
    assert used == driver.tokens() > MOST_TOKENS
    assert (summary["rows"], summary["ok"], summary["failed"]) == (ROWS, BALANCED, {})


def test_a_config_is_either_for_training_or_for_regenerating(tmp_path: Path) -> None:
    training = parse({"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}})
    with pytest.raises(InputError, match="no section regenerate"):
        launch.regenerate(training, str(tmp_path / "run"))
    regenerating = parse({"name": "x", "seed_data": {"path": "a.jsonl"}, "regenerate": {"operations": ["filter"]}})
    with pytest.raises(InputError, match="use tapir regenerate"):
        launch.launch(regenerating, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
