"""The suite `lm_eval:TASK` on tasks of a user's own with local data: no network, the harness's own figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tapir_ray.config import CreateModel, Student, parse
from tapir_ray.config.checked_suites import LmEval
from tapir_ray.data.schemas import conform
from tapir_ray.errors import InputError
from tapir_ray.evaluate.lm_eval import LmEvalSuite, resampled
from tapir_ray.evaluate.registry import suites
from tapir_ray.run.layout import Table
from tapir_ray.steps import evaluate
from tapir_ray.steps.context import Context
from tapir_ray.train.create_student import create_student
from tests.runs import Driver, write_config
from tests.steps.contexts import context_for, rows_of, write

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'tapir-ray[lm-eval]'")
from tapir_ray.evaluate.lm_eval_harness import Harness, item_score
from tapir_ray.evaluate.lm_eval_tasks import SCHEMA, check_tasks, count, items, load_tasks

NAMES = ["Rome", "Paris", "Lima", "Quito", "Oslo", "Riga", "Bern"]
TASKS = "own_choice,own_answer,own_text"
CHOICE = """
task: own_choice
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}}}
output_type: multiple_choice
training_split: train
fewshot_split: train
test_split: test
num_fewshot: 2
doc_to_text: "A city: {{{{city}}}}? Answer:"
doc_to_choice: ["yes", "no, it is not"]
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
ANSWER = """
task: own_answer
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/test.jsonl}}}}
output_type: generate_until
test_split: test
doc_to_text: "Repeat {{{{city}}}}:"
doc_to_target: city
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
TEXT = """
task: own_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/test.jsonl}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "The city of {{{{city}}}} is large."
metric_list:
  - {{metric: word_perplexity}}
"""


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """Forbids the hub to the process, and keeps the harness's data in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
            patch.setenv(name, "1")
        yield


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with task files and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"city": name, "label": number % 2} for number, name in enumerate(NAMES)]
    write(folder / "test.jsonl", rows)
    write(
        folder / "train.jsonl",
        [{"city": f"{name}ville", "label": row["label"]} for name, row in zip(NAMES, rows, strict=True)],
    )
    for name, text in {"choice": CHOICE, "answer": ANSWER, "text": TEXT}.items():
        (folder / f"{name}.yaml").write_text(text.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("student") / "m")
    create = CreateModel(hidden_size=16, intermediate_size=32, layers=1, heads=2, max_length=128, initializer_range=0.2)
    create_student(create, ["A city: Rome? Answer: yes", "no, it is not"] * 20, folder, None, 0)
    return folder


def settings(own: Path, **more: Any) -> LmEval:
    return LmEval(include_path=str(own), batch_size=2, **more)


def test_a_folder_of_tasks_that_is_not_there_is_refused(own: Path) -> None:
    check_tasks("own_choice,own_text", settings(own))
    with pytest.raises(InputError, match="include_path /none is not a folder"):
        check_tasks("own_text", LmEval(include_path="/none"))


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(ANSWER.format(folder=tmp_path / "none"))
    with pytest.raises(InputError, match="the data of lm_eval:own_answer cannot be loaded"):
        load_tasks("own_answer", LmEval(include_path=str(tmp_path)))


def test_items_have_the_question_the_target_and_the_task(own: Path) -> None:
    tasks = load_tasks("own_choice,own_answer", settings(own))
    rows = items(tasks, 2)
    assert [(row["task"], row["doc_id"], row["messages"][0]["content"], row["response"]) for row in rows] == [
        ("own_choice", 0, "A city: Rome? Answer:", "0"),
        ("own_choice", 1, "A city: Paris? Answer:", "1"),
        ("own_answer", 0, "Repeat Rome:", "Rome"),
        ("own_answer", 1, "Repeat Paris:", "Paris"),
    ]
    (text,) = items(load_tasks("own_text", settings(own)), 1)
    assert text["messages"][0]["content"] == text["response"] == "The city of Rome is large."
    assert count(tasks, 2) == 4 and count(tasks, None) == 2 * len(NAMES) == len(items(tasks, None))
    assert len({row["instruction_id"] for row in items(tasks, None)}) == 14


def test_rows_that_are_equal_are_two_items(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", [{"city": "Rome", "label": 0}] * 2)
    (tmp_path / "a.yaml").write_text(ANSWER.format(folder=tmp_path))
    rows = items(load_tasks("own_answer", LmEval(include_path=str(tmp_path))), None)
    assert len({row["instruction_id"] for row in rows}) == 2


def test_the_score_of_an_item_is_higher_if_better() -> None:
    assert item_score({"acc": 1.0, "acc_norm": 0.0}, {"acc": "mean", "acc_norm": "mean"}, {"acc", "acc_norm"}) == 1.0
    assert item_score({"wer": 0.4, "acc": 0}, {"wer": "mean", "acc": "mean"}, {"acc"}) == 0.0
    assert item_score({"word_perplexity": [-12.0, 4]}, {"word_perplexity": "weighted_perplexity"}, set()) == -3.0
    assert item_score({"perplexity": -2.5}, {"perplexity": "perplexity"}, set()) == -2.5
    assert item_score({"mcc": [1, 0]}, {"mcc": "matthews_corrcoef"}, {"mcc"}) == 0.0
    assert item_score({"bleu": ["a", "b"]}, {"bleu": "bleu"}, {"bleu"}) is None


def test_a_figure_that_is_no_mean_has_an_interval_over_items() -> None:
    found = resampled(max, [1.0, 2.0, 9.0], 0)
    assert (found.value, found.rows) == (9.0, 3) and found.low < 9.0 == found.high


def test_a_student_at_an_endpoint_is_refused() -> None:
    endpoint = {"model": "s", "base_url": "http://127.0.0.1:9/v1", "api_key_env": None}
    config = parse(
        {
            "name": "x",
            "student": {"model": "m", "engine": "openai", "endpoint": endpoint},
            "evaluate": {"only": True, "suites": ["lm_eval:own_choice"]},
        }
    )
    unused: Any = None
    with pytest.raises(InputError, match="reads the student's folder"):
        LmEvalSuite(unused, config, unused, unused, "own_choice").check()


@pytest.mark.slow
def test_an_unknown_task_is_refused_and_the_harness_s_own_are_known(own: Path) -> None:
    check_tasks("own_text,arc_easy", settings(own))
    with pytest.raises(InputError, match="has no task 'own_chioce'"):
        check_tasks("own_text,own_chioce", settings(own))


@pytest.mark.slow
def test_blocks_of_items_have_the_values_of_the_harness_s_own_evaluation(own: Path, student: str) -> None:
    """Examples before a question are drawn in the order of the items: blocks built alone would have other ones."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    chosen = settings(own)
    measure = Harness(student, Student(model=student, dtype="float32"), TASKS, chosen, threads=1, gpu=False)
    rows = items(load_tasks(TASKS, chosen), None)
    # Blocks in another order than that of the data, and across tasks.
    blocks = [rows[at::4] for at in (2, 0, 3, 1)]
    found = pa.concat_tables(measure(conform(block, SCHEMA)) for block in blocks).to_pylist()
    by_item = {(row["task"], row["doc_id"]): json.loads(row["metrics"]) for row in found}
    manager = TaskManager(include_path=str(own), include_defaults=False)
    lm = HFLM(pretrained=student, dtype="float32", device="cpu", batch_size=2)
    whole = simple_evaluate(lm, tasks=TASKS.split(","), task_manager=manager, bootstrap_iters=0, log_samples=True)
    for name, samples in whole["samples"].items():
        assert len(samples) == len(NAMES)
        for sample in samples:
            wanted = {metric: sample[metric] for metric in sample["metrics"]}
            assert by_item[name, sample["doc_id"]] == pytest.approx(
                {metric: list(value) if isinstance(value, tuple) else value for metric, value in wanted.items()}
            )
    answers = [row["student_response"] for row in found if row["task"] == "own_answer"]
    assert all(isinstance(text, str) for text in answers)


def context_of(folder: Path, own: Path, model: str) -> Context:
    context = context_for(
        folder,
        write(folder / "seed.jsonl", [{"instruction": "q", "output": "a"}]),
        student={"model": model, "dtype": "float32", "max_model_len": 128},
        train={"sequence_length": 128},
        holdout={"rows": 0},
        resources={"rows_per_block": 4},
        evaluate={"suites": [f"lm_eval:{TASKS}"], "lm_eval": {"include_path": str(own), "batch_size": 4}},
    )
    context.run.publish(context.loop.checkpoint(context.config.curriculum.rounds), extra={"model": model})
    return context


@pytest.mark.slow
def test_the_suite_keeps_each_item_and_the_figures_of_each_task(
    tmp_path: Path, own: Path, student: str, ray_local: None
) -> None:
    context = context_of(tmp_path, own, student)
    with context.roles:
        evaluate.evaluate(context)
    ((table, suite),) = suites(context.run, context.config, context.loop, context.roles).items()
    assert table == Table("evaluation/lm_eval.own_choice.own_answer.own_text")
    rows = rows_of(context, table)
    assert len(rows) == 3 * len(NAMES) and {row["status"] for row in rows} == {"ok"}
    summary = suite.summary(table)
    assert summary.rows == len(rows) and set(summary.by_category) == set(TASKS.split(","))
    acc = [row["student_score"] for row in rows if row["task"] == "own_choice"]
    assert summary.metrics["own_choice/acc"].value == pytest.approx(sum(acc) / len(acc), abs=1e-4)
    perplexity = summary.metrics["own_text/word_perplexity"]
    assert perplexity.low <= perplexity.value <= perplexity.high and perplexity.value > 1


@pytest.mark.slow
def test_a_task_without_a_network_is_measured_before_and_after_a_training(tmp_path: Path, own: Path) -> None:
    config = write_config(
        tmp_path,
        holdout={"rows": 0},
        curriculum={"rounds": 1, "tasks": "seed", "difficulty": {"select": "none"}},
        evaluate={"suites": ["lm_eval:own_choice"], "lm_eval": {"include_path": str(own)}},
    )
    driver = Driver(config, tmp_path / "run", HF_DATASETS_OFFLINE="1", HF_HUB_OFFLINE="1")
    driver.finish()
    tables = {
        path: driver.rows(path) for path in ("evaluation/lm_eval.own_choice", "evaluation/initial/lm_eval.own_choice")
    }
    assert {path: len(rows) for path, rows in tables.items()} == dict.fromkeys(tables, len(NAMES))
    last, initial = ({row["doc_id"]: row["metrics"] for row in rows} for rows in tables.values())
    assert last.keys() == initial.keys()
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["suites"]["lm_eval.own_choice"]
    assert found["rows"] == found["initial"]["rows"] == len(NAMES) and "acc" in found["metrics"]
    assert found["over_initial"] is not None
