"""Classification by a real DeBERTa with random weights, in an actor pool of Ray Data."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapir_ray.config import Classify, Config, CreateModel, Replicas, Resources, SeedData, Student
from tapir_ray.data import schemas
from tapir_ray.errors import InputError
from tapir_ray.train.create_classifier import create_classifier
from tapir_ray.transforms.classify import check_labels, classify, load_labels, score_classifier

LABELS = ["Math", "Reasoning", "Writing"]
TINY = CreateModel(hidden_size=32, intermediate_size=64, layers=1, heads=2, vocab_size=300, max_length=128)
MAX_LENGTH = 48
TEXTS = [f"Row {number}: " + "count these words " * (number * 7 % 23) for number in range(60)]
STATUSES = ["failed", "ok", None, "ok", "filtered"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny DeBERTa with weights large enough to give rows different labels."""
    folder = str(tmp_path_factory.mktemp("classifier"))
    create_classifier(TINY, TEXTS, LABELS, folder, seed=0)
    import torch
    from transformers import AutoModelForSequenceClassification

    network = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(20.0 if parameter.ndim > 1 else 1.0)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(model: str) -> dict[str, tuple[str, float]]:
    """Returns {text: (label, probability)} by transformers, one row at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    answers = {}
    for text in TEXTS:
        with torch.no_grad():
            encoded = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            probabilities = network(**encoded).logits.softmax(-1)[0]
        answers[text] = (network.config.id2label[int(probabilities.argmax())], float(probabilities.max()))
    assert len({label for label, _ in answers.values()}) >= 2, "a model with a single answer would test nothing"
    return answers


def config(replicas: int) -> Config:
    return Config(
        name="test",
        seed_data=SeedData(path="none"),
        student=Student(model="none"),
        classify=Classify(model="none", max_length=MAX_LENGTH, batch_size=7),
        resources=Resources(classifier=Replicas(replicas=replicas, cpus=0.3)),
    )


def table() -> pa.Table:
    rows = []
    for number, text in enumerate(TEXTS):
        messages = [{"role": "user", "content": text}]
        task = "Asked" if number % 2 else None
        rows.append({"instruction_id": f"id-{number}", "messages": messages, "task": task})
        rows[-1]["status"] = STATUSES[number % len(STATUSES)]
    return schemas.conform(rows, schemas.INSTRUCTIONS)


@pytest.mark.slow
def test_labels_equal_those_of_a_plain_loop_for_any_blocks_and_workers(
    ray_local: None, model: str, expected: dict[str, tuple[str, float]]
) -> None:
    import ray.data

    rows = ray.data.from_arrow(table()).repartition(7)
    labelled = {row["instruction_id"]: row for row in classify(rows, model, config(2)).take_all()}
    assert set(labelled) == {f"id-{number}" for number in range(len(TEXTS))}
    for number, text in enumerate(TEXTS):
        row = labelled[f"id-{number}"]
        assert row["messages"][0]["content"] == text
        if row["status"] in ("failed", "filtered"):
            assert row["task"] == ("Asked" if number % 2 else None) and row["task_prob"] is None
        else:
            label, probability = expected[text]
            assert row["task"] == label
            assert row["task_prob"] == pytest.approx(probability, abs=1e-4)


@pytest.mark.slow
def test_other_columns_keep_the_given_task_and_an_empty_table_passes(
    ray_local: None, model: str, expected: dict[str, tuple[str, float]]
) -> None:
    import ray.data

    rows = ray.data.from_arrow([table().slice(0, 5), schemas.INSTRUCTIONS.empty_table()])
    done = classify(rows, model, config(1), columns=("task_predicted", "task_prob")).take_all()
    assert [row["task"] for row in done] == [None, "Asked", None, "Asked", None]
    assert [row["task_predicted"] for row in done] == [
        expected[text][0] if status in (None, "ok") else None for text, status in zip(TEXTS, STATUSES, strict=False)
    ]
    empty = ray.data.from_arrow(schemas.INSTRUCTIONS.empty_table())
    assert classify(empty, model, config(1)).take_all() == []


@pytest.mark.slow
def test_rows_wait_for_at_most_one_window(ray_local: None, model: str) -> None:
    """Otherwise rows that a teacher writes one by one would be stored only after a thousand of them."""
    import ray.data

    slices = [table().slice(start, 4) for start in range(0, len(TEXTS), 4)]
    labelled = classify(ray.data.from_arrow(slices), model, config(1), window=16)
    lengths = [len(block) for block in labelled.iter_batches(batch_size=None, batch_format="pyarrow")]
    assert sum(lengths) == len(TEXTS) and max(lengths) <= 16


def test_scores_compare_predictions_with_the_labels_of_the_file(
    ray_local: None, model: str, expected: dict[str, tuple[str, float]], tmp_path: Path
) -> None:
    """All rows are right except the first ten usable ones, whose label in the file is unknown to the model."""
    rows = [
        {"instruction_id": text, "messages": [{"role": "user", "content": text}], "task": expected[text][0]}
        for text in TEXTS
    ]
    for row in rows[:10]:
        row["task"] = "Others"
    rows.append({"instruction_id": "x", "messages": [{"role": "user", "content": "no task"}], "task": None})
    pq.write_table(schemas.conform(rows, schemas.INSTRUCTIONS), tmp_path / "rows.parquet")
    report = score_classifier(str(tmp_path), model, config(1))
    assert report.rows == report.holdout_rows == 60
    assert report.accuracy == pytest.approx(50 / 60)
    assert report.per_label_f1["Others"] == 0.0


def test_labels_of_a_model_are_read_and_checked_against_the_taxonomy(model: str, tmp_path: Path) -> None:
    assert load_labels(model) == LABELS
    check_labels(LABELS, ["Writing", "Reasoning", "Math", "Art"])
    with pytest.raises(InputError, match=r"'Reasoning'.*curriculum\.tasks"):
        check_labels(LABELS, ["Writing", "Math"])
    with pytest.raises(InputError, match=r"classify\.model"):
        load_labels(str(tmp_path / "missing"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    with pytest.raises(InputError, match="id2label"):
        load_labels(str(tmp_path))
