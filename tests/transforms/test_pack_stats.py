"""Pairs left out by packing are reported with their share; a table packed whole gives no warning."""

from __future__ import annotations

from dataclasses import replace

from tapir_ray.transforms.pack_stats import PackStats

WHOLE = PackStats(
    sequences=9, tokens=900, response_tokens=300, hard_tokens=0, pairs=140, cut=0, over_length=0, template_refused=0,
    last_turn_only=0, epochs=2,
)  # fmt: skip


def test_pairs_are_counted_once_for_any_number_of_epochs() -> None:
    assert WHOLE.warnings() == []
    stats = replace(WHOLE, over_length=25, template_refused=5)
    assert stats.once() == {"pairs": 70, "cut": 0, "over_length": 25, "template_refused": 5, "special_token": 0,
                            "last_turn_only": 0}  # fmt: skip
    assert stats.warnings() == [
        "25 of 100 pairs (25.0%) do not fit train.sequence_length and are left out",
        "5 of 100 pairs (5.0%) are refused by the chat template and left out",
    ]


def test_truncated_and_reduced_pairs_are_reported_too() -> None:
    cut, rewritten = replace(WHOLE, cut=7, last_turn_only=1).warnings()
    assert cut == "7 of 70 pairs (10.0%) are longer than train.sequence_length and lose their end"
    assert rewritten.startswith("1 of 70 pairs (1.4%) train on their last answer alone")


def test_an_empty_result_raises_no_division_by_zero() -> None:
    assert replace(WHOLE, pairs=0, over_length=3).warnings()[0].startswith("3 of 3 pairs (100.0%)")
    assert replace(WHOLE, pairs=0).warnings() == []
