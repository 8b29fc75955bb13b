"""The taxonomy: published weights, a user's own, and errors that name the change to make."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.config import Curriculum
from tapir_ray.curriculum.tasks import PLAIN_STYLE, SHIPPED, load
from tapir_ray.errors import InputError, StageError

TAPIR = load(Curriculum(toxicity=True))


def test_the_published_weights_sum_to_one() -> None:
    content = yaml.safe_load(SHIPPED.read_text())["tasks"]
    weights = [entry["weight"] for entry in content.values()]
    assert sum(weights) == pytest.approx(1.0, abs=1e-9)
    assert Counter(weights) == {0.167: 2, 0.083: 2, 0.041: 1, 0.017: 27}
    assert all(entry["style"] for entry in content.values())
    assert all(word == word.lower() for entry in content.values() for word in entry["words"])


def test_toxicity_is_off_by_default() -> None:
    off = load(Curriculum())
    assert off.weights["Toxicity"] == 0.0
    assert off.weights["Math"] == pytest.approx(0.167 / 0.983)
    assert "Toxicity" in off.labels, "a classifier still knows the label"
    assert "Toxicity" not in off.effective_weights(set(off.labels))
    assert TAPIR.weights["Toxicity"] == pytest.approx(0.017)


@given(st.sets(st.sampled_from(TAPIR.labels), min_size=1))
def test_weights_of_absent_tasks_are_redistributed_in_proportion(present: set[str]) -> None:
    weights = TAPIR.effective_weights(present)
    assert weights.keys() == present
    assert sum(weights.values()) == pytest.approx(1.0)
    scale = sum(TAPIR.weights[label] for label in present)
    assert all(weights[label] == pytest.approx(TAPIR.weights[label] / scale) for label in present)
    assert set(TAPIR.absent(present)) == set(TAPIR.labels) - present


def test_weights_of_the_user_replace_the_published_ones() -> None:
    taxonomy = load(Curriculum(weights={"Math": 0.75, "Grammar": 0.25}))
    assert taxonomy.effective_weights({"Math", "Grammar", "Art"}) == {"Grammar": 0.25, "Math": 0.75}
    with pytest.raises(StageError, match="Art"):
        taxonomy.effective_weights({"Art"})


def test_the_seed_data_gives_its_own_weights() -> None:
    taxonomy = load(Curriculum(tasks="seed")).with_seed_counts({"Math": 30, "Cooking": 10, "Toxicity": 60})
    assert taxonomy.effective_weights({"Math", "Cooking", "Toxicity"}) == {"Cooking": 0.25, "Math": 0.75}
    assert taxonomy.styles["Cooking"]


def test_a_taxonomy_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("tasks: {Chess: {weight: 0.6, style: Name the move., words: [check mate]}, Go: {weight: 0.4}}")
    taxonomy = load(Curriculum(tasks=str(path)))
    assert taxonomy.labels == ("Chess", "Go")
    assert taxonomy.styles["Chess"] == "Name the move."
    assert taxonomy.label_by_words("Check-mate in two!") == "Chess"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("tasks: {A: {weight: 0.5}, B: {weight: 0.4}}", "sum to 0.9000"),
        ("tasks: {A: {weight: -1}}", "task A needs a `weight`"),
        ("tasks: {A: {weigth: 1}}", "weigth"),
        ("labels: [A]", "tasks:"),
        ("tasks: [", "not valid YAML"),
        (None, "cannot read"),
    ],
)
def test_a_bad_taxonomy_file_is_named(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"own\.yaml") as caught:
        load(Curriculum(tasks=str(path)))
    assert says in str(caught.value)


def test_bad_weights_name_the_key() -> None:
    with pytest.raises(InputError, match=r"curriculum\.weights: unknown task 'Maths'"):
        load(Curriculum(weights={"Maths": 1.0}))
    with pytest.raises(InputError, match=r"curriculum\.toxicity: true"):
        load(Curriculum(weights={"Toxicity": 1.0}))
    with pytest.raises(InputError, match="leave it out"):
        load(Curriculum(tasks="seed", weights={"Math": 1.0}))
    with pytest.raises(InputError, match="task_column: unknown task"):
        TAPIR.check("Maths", "task_column")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Calculate the average of 4, 8 and 15.", "Math"),
        ("Translate 'good morning' into French.", "Multilingual"),
        ("Write a Python function that reverses a linked list.", "Code Generation"),
        ("Identify the verb in this sentence.", "Grammar"),
        ("zzz", "Others"),
    ],
)
def test_the_heuristic_labels_by_words(text: str, label: str) -> None:
    assert TAPIR.label_by_words(text) == label


def test_the_heuristic_covers_real_instructions(data_folder: Path) -> None:
    lines = (data_folder / "seeds" / "alpaca_9k.jsonl").read_text().splitlines()[:1500]
    rows = [json.loads(line) for line in lines]
    labels = Counter(TAPIR.label_by_words(f"{row['instruction']} {row['input']}") for row in rows)
    assert labels["Others"] < 0.1 * len(rows)
    assert len(labels) >= 25
    assert labels.most_common(1)[0][1] < 0.3 * len(rows)


def test_only_the_named_tasks_have_a_style() -> None:
    some = TAPIR.styling(["Math", "Grammar"])
    assert some.styles == {"Math": TAPIR.styles["Math"], "Grammar": TAPIR.styles["Grammar"]}
    assert (some.labels, some.weights) == (TAPIR.labels, TAPIR.weights), "plain tasks are still trained on"
    assert some.is_styled("Math") and not some.is_styled("Art")
    assert TAPIR.styling([]).styles == {} and not TAPIR.styling([]).is_styled("Math")
    assert TAPIR.styling("all") is TAPIR and TAPIR.is_styled("Art")
    with pytest.raises(InputError, match=r"rewrite\.tasks: unknown task 'Maths'; the tasks are Math, Reasoning, "):
        TAPIR.styling(["Grammar", "Maths"])


def test_tasks_of_the_seed_data_alone_are_styled_if_they_are_named() -> None:
    taxonomy = load(Curriculum(tasks="seed"))
    counts = {"Math": 1, "Chess": 2, "Go": 1}
    assert set(taxonomy.with_seed_counts(counts).styles) == {*taxonomy.labels, "Chess", "Go"}
    some = taxonomy.styling(["Math", "Chess"], complete=False).with_seed_counts(counts)
    assert some.styles == {"Math": taxonomy.styles["Math"], "Chess": PLAIN_STYLE}
    assert taxonomy.styling([], complete=False).with_seed_counts(counts).styles == {}
