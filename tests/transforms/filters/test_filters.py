"""Filters: rows that pass, and every dropped row with the reason shown to a user."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.config import Config, parse
from tapir_ray.data.contamination_index import ContaminationIndex, Postings
from tapir_ray.data.ngrams import Turn, grams
from tapir_ray.data.schemas import GENERATED_ROWS, conform, instruction_id
from tapir_ray.errors import InputError
from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.filters import BEFORE, check_rows, filter_generated, mark_rows, row_filters
from tapir_ray.transforms.filters.contamination import contamination_index, mark_contaminated
from tapir_ray.transforms.filters.duplicates import seed_bands

HOLDOUT = "A farmer has twelve cows and buys nine more at the market on Monday, then sells four. How many are left?"


def no_cats(row: dict[str, Any]) -> str | None:
    return "mentions_a_cat" if "cat" in row["messages"][-1]["content"] else None


def config(**filters: Any) -> Config:
    found = {"ngram": 8, "max_chars": 300, **filters}
    return parse({"name": "t", "student": {"model": "m"}, "seed_data": {"path": "x"}, "filter": found})


def row(number: int, text: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}] if text is not None else None
    found = {
        "draw_id": f"{number:032x}",
        "round": 1,
        "messages": messages,
        "instruction_id": instruction_id(messages or []),
        "task": "Math",
        "status": "ok",
    }
    return {**found, **more}


def generated(rows: list[dict[str, Any]]) -> pa.Table:
    table = conform(rows, GENERATED_ROWS)
    predicted = pa.array([one.get("predicted") for one in rows], pa.string())
    table = table.append_column("task_predicted", predicted)
    prob = pa.array([one.get("prob") for one in rows], pa.float64())
    return table.set_column(table.column_names.index("task_prob"), "task_prob", prob)


def test_each_filter_names_its_reason(ray_local: None, tmp_path: Path) -> None:
    leak = Prompts().render("expand", task="Math", instruction="x").splitlines()[2]
    rows = [
        row(1, "Add seven to the product of three and five."),
        row(2, "  "),
        row(3, "long " * 80),
        row(4, f"{leak} Now count the cars."),
        row(5, "Which composer wrote the moonlight sonata?", predicted="Music", prob=0.9),
        row(6, "Who painted the water lilies of Giverny?", predicted="Art", prob=0.4),
        row(7, "How many legs do three cats and a spider have, all of them together?"),
        row(8, HOLDOUT),
        row(9, HOLDOUT.replace("left?", "left now?")),
        row(
            10, "Say what is odd here: a farmer has twelve cows and buys nine more at the market, it says, every week."
        ),
        row(11, "Add seven to the product of three and five."),
        row(12, "add seven to the product of three and five"),
        row(13, "Name the capital of France and its river."),
        row(14, HOLDOUT, status="failed", reason="TimeoutError: no answer"),
        row(15, "Below is an instruction of the task type Math. How many sides has a dozen of triangles?"),
    ]
    settings_ = config(functions=["tests.transforms.filters.test_filters:no_cats"])
    settings_ = settings_.model_copy(update={"classify": settings_.classify.model_copy(update={"min_task_prob": 0.5})})
    table = generated(rows)
    seed = generated([row(0, "Name the capital of France and its river.")]).drop_columns(["draw_id"])
    holdout = contamination_index(ray.data.from_arrow(generated([row(0, HOLDOUT)])), settings_)
    earlier = seed_bands(ray.data.from_arrow(seed), settings_, str(tmp_path / "seed"))
    blocks = [table.slice(0, 5), table.slice(5)]
    marked = filter_generated(
        ray.data.from_arrow(blocks), settings_, {"holdout": holdout}, str(tmp_path / "bands"), [earlier]
    )
    found = sorted(marked.take_all(), key=lambda one: one["draw_id"])
    assert len(found) == len(rows), "counts in = counts out"
    first, seed_id = rows[0]["instruction_id"], rows[12]["instruction_id"]
    assert {int(one["draw_id"], 16): one["reason"] for one in found} == {
        1: None,
        2: "empty",
        3: "over_long",
        4: "prompt_leakage",
        5: "other_task: Music",
        6: None,
        7: "mentions_a_cat",
        8: "contamination_holdout: exact",
        9: "contamination_holdout: near_duplicate",
        10: "contamination_holdout: ngram",
        11: f"duplicate: {first}",
        12: f"near_duplicate: {first}",
        13: f"duplicate: {seed_id}",
        14: "TimeoutError: no answer",
        15: "prompt_leakage",
    }
    assert all((one["status"] == "ok") == (one["reason"] is None) for one in found)
    assert found[13]["status"] == "failed", "a failed row keeps its own status"
    assert "order" not in found[0]


def test_seed_rows_of_the_holdout_are_filtered(ray_local: None) -> None:
    settings_ = config()
    index = contamination_index(ray.data.from_arrow(generated([row(0, HOLDOUT)])), settings_)
    seed = generated([row(1, HOLDOUT), row(2, "Spell your own name backwards.")])
    marked = mark_contaminated(ray.data.from_arrow(seed), {"holdout": index}, settings_).take_all()
    assert sorted((one["status"], one["reason"]) for one in marked) == [
        ("filtered", "contamination_holdout: exact"),
        ("ok", None),
    ]


def test_an_empty_holdout_filters_no_row(ray_local: None) -> None:
    settings_ = config()
    index = contamination_index(ray.data.from_arrow(generated([row(0, HOLDOUT)]).slice(0, 0)), settings_)
    marked = mark_contaminated(ray.data.from_arrow(generated([row(1, HOLDOUT)])), {"holdout": index}, settings_)
    assert [one["reason"] for one in marked.take_all()] == [None]


TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
STATUS = st.sampled_from(["ok", "filtered", "failed"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, STATUS), max_size=8), st.lists(TEXT, max_size=3))
def test_no_row_is_lost_and_only_ok_rows_change(rows: list[tuple[str, str]], held_out: list[str]) -> None:
    before = generated([row(n, text, status=status, reason=None) for n, (text, status) in enumerate(rows)])
    after = mark_rows(before, row_filters(config(max_chars=20), BEFORE))
    assert after["draw_id"].equals(before["draw_id"])
    for old, new in zip(before.to_pylist(), after.to_pylist(), strict=True):
        assert old["status"] == "ok" or new == old
        assert new["status"] in (old["status"], "filtered")
        assert (new["reason"] is not None) == (old["status"] == "ok" and new["status"] == "filtered")
        text = new["messages"][0]["content"]
        if old["status"] == "ok":
            assert (new["status"] == "ok") == (bool(text.strip()) and len(text) <= 20)
    index = ContaminationIndex.build([[{"role": "user", "content": text}] for text in held_out], 5, 0.7)
    kinds = index.contaminated([[{"role": "user", "content": text}] for text in held_out])
    assert kinds == ["exact"] * len(held_out)


def test_an_evaluation_text_hidden_in_a_longer_one_is_found() -> None:
    held_out = [{"role": "user", "content": "name the four largest moons that circle the planet Jupiter today"}]
    index = ContaminationIndex.build([held_out], 6, 0.7)
    inside = "Before lunch, " + held_out[0]["content"].upper() + ", then describe each of them in a line of its own."
    assert index.contaminated([[{"role": "user", "content": inside}]]) == ["ngram"]
    assert ContaminationIndex.build([held_out], 0, 0.7).contaminated([[{"role": "user", "content": inside}]]) == [None]


WORDS = st.lists(st.sampled_from("abcdef"), max_size=12).map(" ".join)


def ngram_hashes(text: str, words: int) -> set[int]:
    """Returns the hashes of the n-grams of a text; none if it has fewer words, or for 0 words."""
    turn = Turn.of(text)
    return set(grams(turn.hashes, turn.weights, words).hashes.tolist())


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, max_size=6), WORDS, st.integers(0, 4))
def test_ngrams_are_found_as_by_pairwise_comparison(held_out: list[str], text: str, ngram: int) -> None:
    """Covers an index without n-grams, and hashes above the last one of an index."""
    index = ContaminationIndex.build([[{"role": "user", "content": one}] for one in held_out], ngram, 1.0)
    messages = [{"role": "user", "content": text}]
    wanted = any(ngram_hashes(one, ngram) & ngram_hashes(text, ngram) for one in held_out)
    ngrams_alone = dataclasses.replace(index, ids=frozenset(), bands=Postings.of([]))
    assert ngrams_alone.contaminated([messages]) == ["ngram" if wanted else None]


def test_an_unknown_function_is_refused_before_rows_are_read(ray_local: None) -> None:
    rows = ray.data.from_arrow(generated([row(1, "x")]))
    with pytest.raises(InputError, match=r"filter\.functions.*no_dogs"):
        check_rows(rows, config(functions=["tests.transforms.filters.test_filters:no_dogs"]))
