"""Fine-tuning of the task classifier: its parts, and a real DeBERTa trained by Ray Train on real rows."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.config import Classify, CreateModel, Replicas, Resources
from tapir_ray.data import schemas
from tapir_ray.errors import InputError, StageError
from tapir_ray.train.classifier import ClassifierReport, measure, train_classifier
from tapir_ray.train.classifier_loop import Labelled, batches_by_length, class_weights, hold_out, rate_factor
from tapir_ray.train.create_classifier import create_classifier

SOURCES = {"gsm8k_2k": "Math", "codealpaca_2k": "Code Generation", "roleplay_1k": "Roleplay"}
LABELS = ["Code Generation", "Math", "Roleplay", "Writing"]
TINY = CreateModel(hidden_size=64, intermediate_size=256, layers=2, heads=2, vocab_size=1024, max_length=128)
CLASSIFY = Classify(
    create=TINY, label_rows=450, max_length=64, train_batch_size=16, learning_rate=3e-3, epochs=5, holdout_share=0.2
)
HALF_A_CPU = Resources(classifier=Replicas(replicas=2, cpus=0.5))


def row(text: str, task: str | None, status: str | None = "ok") -> dict:
    messages = [{"role": "user", "content": text}]
    return {
        "instruction_id": schemas.instruction_id(messages),
        "messages": messages,
        "task": task,
        "status": status,
    }


def write(folder: Path, rows: list[dict]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(schemas.conform(rows, schemas.INSTRUCTIONS), folder / "part-0.parquet")
    return str(folder)


def labelled(counts: dict[str, int]) -> list[Labelled]:
    return [Labelled(f"{label}-{number}", "text", label) for label, count in counts.items() for number in range(count)]


def trained(folder: Path, rows: str) -> ClassifierReport:
    """Returns the report of a training of FOLDER/base into FOLDER/model."""
    return train_classifier(
        rows,
        str(folder / "base"),
        LABELS,
        CLASSIFY,
        HALF_A_CPU,
        out_dir=str(folder / "model"),
        storage_dir=str(folder / "storage"),
        name="classifier",
    )


@pytest.mark.slow
def test_a_tiny_deberta_learns_real_tasks(ray_local: None, data_folder: Path, tmp_path: Path) -> None:
    """Two workers on half a CPU each. Three sources, so chance is 1/3. A base with other labels gets a new head."""
    rows = []
    for source, label in SOURCES.items():
        lines = (data_folder / "seeds" / f"{source}.jsonl").read_text().splitlines()[:150]
        for seed_row in map(json.loads, lines):
            rows.append(row(f"{seed_row['instruction']}\n{seed_row['input']}".strip(), label))
    rows += [row("no label", None), row("not usable", "Math", "failed")]
    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled" / "manifest.json").write_text("{}")
    files = write(tmp_path / "labelled", rows)
    create_classifier(TINY, [schemas.text_of(r["messages"]) for r in rows], ["yes", "no"], str(tmp_path / "base"), 0)
    report = trained(tmp_path, files)
    distinct = {r["instruction_id"] for r in rows[:-2]}
    assert report.rows == len(distinct) == report.train_rows + report.holdout_rows
    assert report.holdout_rows == sum(sum(row.values()) for row in report.confusion.values()) == 90
    assert report.accuracy is not None and report.accuracy >= 0.7
    assert report.macro_f1 is not None and report.macro_f1 >= 0.6
    assert set(report.confusion) == set(SOURCES.values())
    assert json.dumps(report.to_dict())
    assert 0 < report.start_seconds < report.seconds
    assert not any((tmp_path / "storage").iterdir()), "the workers' files in the storage are deleted"
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {str(index): label for index, label in enumerate(LABELS)}, "labels, not LABEL_0"
    assert config["label2id"] == {label: index for index, label in enumerate(LABELS)}

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(report.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(report.folder)
    assert [model.config.id2label[index] for index in range(4)] == LABELS, "a label without rows keeps its output"
    text = "Tom has 12 apples and buys 7 more. He gives 5 to Ann. How many apples does Tom have?"
    logits = model(**tokenizer(text, return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == "Math"


def test_rows_that_cannot_train_a_classifier_name_the_change(tmp_path: Path) -> None:
    def train(rows: list[dict], **changes: float) -> None:
        settings = CLASSIFY.model_copy(update=changes)
        train_classifier(
            write(tmp_path / "rows", rows), "base", LABELS, settings, HALF_A_CPU, out_dir="m", storage_dir="s", name="c"
        )

    keys = r".*classify\.label_rows.*seed_data\.limit.*classify\.by"
    with pytest.raises(StageError, match=rf"at least two labels.*Math{keys}"):
        train([row(f"question {number}", "Math") for number in range(20)])
    with pytest.raises(StageError, match=rf"0 labelled rows have none{keys}"):
        train([row("a", "Math", "failed")])
    with pytest.raises(StageError, match=rf"1 of 3 labelled rows.*holdout_share 0\.6.*replicas 2{keys}"):
        train([row("a", "Math"), row("b", "Writing"), row("c", "Writing")], holdout_share=0.6)
    with pytest.raises(InputError, match="'Cooking'"):
        train([row("a", "Math"), row("b", "Cooking")])
    with pytest.raises(InputError, match="no Parquet file"):
        train_classifier(
            str(tmp_path / "none"), "base", LABELS, CLASSIFY, HALF_A_CPU, out_dir="m", storage_dir="s", name="c"
        )


@pytest.mark.slow
def test_two_rows_of_two_labels_train_a_classifier(ray_local: None, tmp_path: Path) -> None:
    """Seed data of a few rows has no more. Nothing is held out, and each worker has a row."""
    rows = [row("What is 2 + 2?", "Math"), row("Write a poem.", "Writing"), row("Why?", "Writing", "failed")]
    texts = [schemas.text_of(r["messages"]) for r in rows]
    create_classifier(TINY, texts, LABELS, str(tmp_path / "base"), 0)
    on_interrupt = signal.getsignal(signal.SIGINT)
    report = trained(tmp_path, write(tmp_path / "rows", rows))
    assert (report.rows, report.train_rows, report.holdout_rows, report.accuracy) == (2, 2, 0, None)
    assert signal.getsignal(signal.SIGINT) is on_interrupt, "Ctrl-C would end the process as Ray Train does"
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_created_classifier_is_reproducible_and_loads_on_its_own(tmp_path: Path) -> None:
    texts = ["What is 2 + 2?", "Write a poem.", "Übersetze: 你好"] * 5
    for name in ("one", "two"):
        create_classifier(TINY, texts, LABELS, str(tmp_path / name), 7)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(tmp_path / "one")
    assert config.id2label == dict(enumerate(LABELS))
    assert config.model_type == "deberta-v2" and config.relative_attention and config.share_att_key
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    ids = tokenizer("Unseen: señor 漢字 🙂")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.unk_token_id not in ids
    with pytest.raises(InputError, match=r"classify\.create\.hidden_size"):
        create_classifier(TINY.model_copy(update={"heads": 3}), texts, LABELS, str(tmp_path / "bad"), 0)


def test_measures_equal_those_counted_by_hand() -> None:
    measured = measure({("a", "a"): 3, ("a", "b"): 1, ("b", "b"): 2, ("b", "c"): 2, ("c", "c"): 0})
    assert measured["holdout_rows"] == 8
    assert measured["accuracy"] == pytest.approx(5 / 8)
    assert measured["per_label_f1"] == pytest.approx({"a": 6 / 7, "b": 4 / 7, "c": 0.0})
    assert measured["macro_f1"] == pytest.approx((6 / 7 + 4 / 7) / 3)
    assert measured["confusion"] == {"a": {"a": 3, "b": 1}, "b": {"b": 2, "c": 2}}
    assert measure({})["accuracy"] is None


def test_every_label_is_held_out_by_its_share_and_rare_ones_are_kept() -> None:
    rows = labelled({"many": 100, "some": 5, "rare": 3})
    training, held = hold_out(rows, 0.15, 0)
    assert Counter(row.label for row in held) == {"many": 15, "some": 1}
    assert sorted(row.instruction_id for row in training + held) == sorted(row.instruction_id for row in rows)
    assert hold_out(rows[::-1], 0.15, 0)[1] == held[::-1], "the order of rows does not matter"
    assert hold_out(rows, 0.15, 1)[1] != held
    assert hold_out(rows, 0.0, 0) == (rows, [])


@given(
    st.lists(st.integers(1, 300), min_size=8, max_size=400),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(0, 5),
)
def test_an_epoch_has_every_row_once_and_rows_for_every_worker(
    lengths: list[int], batch_size: int, workers: int, seed: int
) -> None:
    """A worker without a row in a batch would wait for the others forever."""
    batches = batches_by_length(lengths, batch_size, workers, seed)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) >= workers for batch in batches)
    assert all(len(batch) <= max(batch_size, 2 * workers) for batch in batches)


def test_batches_hold_rows_of_similar_length() -> None:
    lengths = [7 * number % 256 + 1 for number in range(1024)]
    padded = sum(
        len(batch) * max(lengths[index] for index in batch) for batch in batches_by_length(lengths, 32, 2, seed=0)
    )
    assert padded < 1.1 * sum(lengths)


@given(st.lists(st.integers(1, 600), max_size=200), st.integers(1, 64), st.none() | st.integers(1, 2048))
def test_prediction_runs_every_row_once_within_its_limits(
    lengths: list[int], batch_size: int, max_tokens: int | None
) -> None:
    from tapir_ray.train.batches import longest_first

    batches = list(longest_first(lengths, batch_size, max_tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        if max_tokens is not None and len(batch) > 1:
            assert len(batch) * max(lengths[index] for index in batch) <= max_tokens


def test_rare_labels_have_larger_weights_and_the_mean_weight_is_one() -> None:
    labels = ["common"] * 90 + ["rare"] * 10
    weights = class_weights(labels, 0.5)
    assert weights["rare"] / weights["common"] == pytest.approx(3.0)
    assert sum(weights[label] for label in labels) / len(labels) == pytest.approx(1.0)
    assert class_weights(labels, 0.0) == {"common": 1.0, "rare": 1.0}


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert max(factors) == factors[9] == 1.0
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.0 < factors[0] <= 0.1 and 0.0 < factors[-1] < 0.02
    assert rate_factor(0, 1, 0.0) == 1.0
