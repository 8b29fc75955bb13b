"""Labels that the classifier's benchmark gives to real rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tapir_ray.config import Curriculum
from tapir_ray.curriculum.tasks import load
from tests.benchmarks.scripts import script

classifier = script("classifier")


def test_sources_have_labels_of_the_taxonomy_and_no_row_is_in_the_test_set(data_folder: Path) -> None:
    sources = classifier.labelled_sources()
    labels = {name: Counter(row["task"] for row in rows) for name, rows in sources.items()}
    assert set().union(*labels.values()) <= set(load(Curriculum()).labels)
    assert set(labels["gsm8k"]) == {"Math"} and set(labels["roleplay"]) == {"Roleplay"}
    assert set(labels["dolly"]) == {"Writing", "Reasoning", "Others"}
    questions = classifier.mt_bench()
    assert Counter(Counter(row["task"] for row in questions).values()) == {10: 6}
    trained_on = {row["instruction_id"] for rows in sources.values() for row in rows}
    assert not trained_on & {row["instruction_id"] for row in questions}


def test_a_source_is_left_out_only_if_another_gives_its_label() -> None:
    def rows(*labels: str) -> list[dict[str, str]]:
        return [{"task": label} for label in labels]

    sources = {"a": rows("Math"), "b": rows("Roleplay"), "c": rows("Math", "Writing")}
    assert classifier.left_out(sources) == ["a", "c"]
