"""The shipped measures, with numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from tapir_ray.config import parse
from tapir_ray.curriculum.difficulty import with_difficulty, with_pool
from tapir_ray.curriculum.measures import configured_measure, load_measure
from tapir_ray.curriculum.measures.sampled import modal_share, success_rate
from tapir_ray.curriculum.stats import table_stats
from tapir_ray.data.schemas import conform
from tapir_ray.errors import InputError
from tapir_ray.transforms.verifiers import with_sample_scores

SMALL = {"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}}


def measured(spec: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Returns ok rows of one task with their difficulty."""
    ok = [{"status": "ok", "task": "Math", "split": "seed", **row} for row in rows]
    schema = load_measure(spec).schema
    return conform(with_difficulty(conform(ok, schema), spec), schema)


def of_losses(spec: str, *pairs: tuple[float | None, float | None]) -> pa.Table:
    return measured(spec, [{"response_loss": one, "response_loss_alone": alone} for one, alone in pairs])


def of_samples(spec: str, *rows: tuple[list[str | None] | None, str | None], **columns: Any) -> list[float | None]:
    made = [{"student_samples": samples, "response": response, **columns} for samples, response in rows]
    return measured(spec, made)["difficulty"].to_pylist()


def test_ifd_is_the_ratio_of_losses_and_a_row_above_1_is_filtered_with_a_reason() -> None:
    found = of_losses("ifd", (1.0, 4.0), (3.0, 3.0), (3.0, 2.0), (None, None), (1.0, 0.0))
    assert found["difficulty"].to_pylist() == [0.25, 1.0, 1.5, None, None]
    assert found["status"].to_pylist() == ["ok", "ok", "filtered", "ok", "ok"]
    assert found["reason"].to_pylist() == [None, None, "ifd_above_1", None, None]
    assert with_pool(found, 0.5, 4.0)["pool"].to_pylist() == ["easy", "hard", None, None, None]
    stats = table_stats(found, 4.0)
    assert (stats.reliable, stats.filtered, stats.unscored) == (2, 1, 2), "counts in are counts out"


def test_superfilter_is_the_ratio_of_perplexities() -> None:
    """exp(1 − 2) = 0.37 and exp(2 − 2) = 1; 2.5 − 2 gives 1.65, above 1."""
    found = of_losses("superfilter", (1.0, 2.0), (2.0, 2.0), (2.5, 2.0))
    assert found["difficulty"].to_pylist() == [0.37, 1.0, 1.65] == [round(math.exp(n), 2) for n in (-1.0, 0.0, 0.5)]
    assert found["status"].to_pylist() == ["ok", "ok", "filtered"]


def test_self_consistency_counts_the_most_frequent_final_answer() -> None:
    """Three of four samples say 8, in three forms; four different texts agree in one of four."""
    rows = [(["8", "5 + 3 = 8 . answer : 8", r"\boxed{8.0}", "9"], None), (["a", "b", "c", "d"], None), (None, None)]
    assert of_samples("self_consistency", *rows) == [0.25, 0.75, None]
    assert of_samples("self_consistency", (["a", "A.", " a "], None)) == [0.0], "case and ends do not matter"
    assert of_samples("self_consistency", ([None, None, "a", "a"], None)) == [0.5], "no answer agrees with none"


def test_frontier_is_highest_for_a_row_that_is_right_half_of_the_time() -> None:
    right, wrong = "answer: 4", "5"
    rows = [([right] * n + [wrong] * (4 - n), "2 + 2 = 4\n#### 4") for n in range(5)]
    assert of_samples("frontier", *rows, (["4"], None)) == [0.0, 0.19, 0.25, 0.19, 0.0, None]
    assert of_samples("unknown", *rows, (["4"], None)) == [1.0, 0.75, 0.5, 0.25, 0.0, None]


def test_the_score_of_a_verifier_replaces_the_comparison_of_texts() -> None:
    """Scores 10, 5.5 and 1 are credits of 1, 0.5 and 0, whatever the texts say."""
    samples, scores = ["one half", "0.4", "0.5"], [10.0, 5.5, 1.0]
    assert success_rate(samples, scores, "0.5") == pytest.approx(0.5)
    assert success_rate(samples, [None, None, None], "0.5") == pytest.approx(1 / 3)
    assert modal_share(["one half", "0.5", "2", "2"], [10.0, 10.0, 1.0, 1.0]) == 0.5
    assert modal_share(["one half", "0.5", "2", "3"], [10.0, 10.0, 1.0, 1.0]) == 0.5, "wrong answers differ"


def test_samples_are_scored_by_the_verifiers_of_the_config() -> None:
    meta = '{"reference": 42}'
    rows = [
        {"student_samples": ["#### 42", "#### 41", None, "about 42"], "meta": meta, "status": "ok"},
        {"student_samples": None, "status": "ok"},
        {"student_samples": ["x"], "meta": "{broken", "status": "ok"},
    ]
    table = conform(rows, load_measure("frontier").schema)
    found = with_sample_scores(table, ["reference_number"])
    assert found["sample_scores"].to_pylist() == [[10.0, 1.0, None, None], None, None]
    assert found["status"].to_pylist() == ["ok", "ok", "failed"]
    assert found["reason"].to_pylist()[2].startswith("JSONDecodeError: ")
    assert with_sample_scores(table, [])["sample_scores"].to_pylist()[0] == [None] * 4
    assert found.schema == table.schema


@pytest.mark.parametrize("measure", ["ifd", "self_consistency", "frontier", "unknown"])
def test_a_run_without_a_judge_takes_a_measure_by_name(measure: str) -> None:
    config = parse({**SMALL, "curriculum": {"difficulty": {"measure": measure, "top_fraction": 0.3}}})
    assert not config.judges
    with pytest.raises(InputError, match=rf"threshold 2 is above .*, the highest difficulty of the measure {measure}"):
        parse({**SMALL, "curriculum": {"difficulty": {"measure": measure}}})


def test_superfilter_needs_its_model() -> None:
    rules = {"measure": "superfilter", "top_fraction": 0.1}
    with pytest.raises(InputError, match=r"superfilter needs curriculum\.difficulty\.model"):
        parse({**SMALL, "curriculum": {"difficulty": rules}})
    assert parse({**SMALL, "curriculum": {"difficulty": {**rules, "model": "gpt2", "chat_template": "chatml"}}})


def test_the_config_sets_the_number_of_samples() -> None:
    rules = {"measure": "frontier", "top_fraction": 0.3, "samples": 5, "temperature": 0.7}
    found = configured_measure(parse({**SMALL, "curriculum": {"difficulty": rules}}).curriculum.difficulty)
    assert (found.samples, found.temperature, found.highest) == (5, 0.7, 0.25)
    assert configured_measure(parse(SMALL).curriculum.difficulty).samples == 0
