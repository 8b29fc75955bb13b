"""Learning benchmark, other methods: an arm is one change to its base; dollars follow from calls and tokens."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.learning_arms import ARMS, CONTRASTS, DEFAULT_ALPHAS, METHODS, REGIMES, Arm
from benchmarks.learning_ledger import Ledger, dollars, mean_usage, student_tokens

CHANGED = {
    "M_ddk": {"curriculum.weights_by": "ddk"},
    "M_evolve": {"expand.prompt": "evolve"},
    "M_feedback": {"expand.prompt": "feedback"},
}


def difference(one: Arm, other: Arm) -> dict[str, Any]:
    assert one.alphas == other.alphas and one.changes.keys() >= other.changes.keys()
    return {name: value for name, value in one.changes.items() if other.changes.get(name) != value}


def test_each_method_is_one_change_to_its_base_arm() -> None:
    for name, base in METHODS.items():
        if name != "A7":
            measure = {"curriculum.difficulty.measure": name.removeprefix("M_")}
            assert difference(ARMS[name], ARMS[base]) == CHANGED.get(name, measure)
    assert len(METHODS) == 9 and {(name, base) for name, base, _ in CONTRASTS} >= METHODS.items()


def test_methods_are_measured_in_two_regimes_unless_named() -> None:
    assert [name for name, regime in REGIMES.items() if set(regime.arms()) & METHODS.keys()] == ["c", "b"]
    assert METHODS.keys() <= set(REGIMES["c"].arms()) & set(REGIMES["b"].arms())


def test_a_method_is_a_config_that_the_product_accepts() -> None:
    pytest.importorskip("torch")
    from benchmarks.learning_trial import config_of

    for name in METHODS:
        model = {"curriculum.difficulty.model": "small"} if name == "M_superfilter" else {}
        config_of(REGIMES["c"], {**ARMS[name].changes, **model}, 0)


def test_the_defaults_are_those_of_the_product() -> None:
    """A key of the base config that the arm forgets would be measured as a default."""
    pytest.importorskip("torch")
    from benchmarks.learning_trial import config_of
    from tapir_ray.config.curriculum import Curriculum
    from tapir_ray.config.method import Expand, Mix, Rewrite, Score

    config = config_of(REGIMES["c"], {"curriculum.rounds": len(DEFAULT_ALPHAS), **ARMS["A7"].changes}, 0)
    unlike = {"alpha": 0.5, "alpha_step": 0.2}  # the rounds take each round's α from the arm
    assert config.curriculum.model_dump() == {**Curriculum().model_dump(), **unlike}
    assert config.rewrite == Rewrite() and config.mix == Mix()
    assert config.expand == Expand(size=3000) and config.score == Score(max_rows=1000)
    assert DEFAULT_ALPHAS == (0.3, 0.5, 0.7)


def letters(texts: Any) -> int:
    return sum(map(len, texts))


def test_a_ledger_counts_calls_and_tokens_by_kind() -> None:
    ledger = Ledger()
    ledger.asked("expand", ["abc"], "abcd", prompt_bytes=400, reply_bytes=8)
    ledger.asked("expand", ["a"], "ab", prompt_bytes=400)
    ledger.asked("answer", ["ab"], "8")
    for _ in range(2):
        ledger.asked("judge", ["ab", "8", "9"], prompt_bytes=40, reply_bytes=20)
    ledger.asked("student_samples", ["ab"], "77")
    ledger.read("student_losses", 2, 30)
    usage = ledger.usage(letters)
    assert usage["expand"] == {"calls": 2, "input": 4 + 200, "output": 6 + 2}
    assert usage["answer"] == {"calls": 1, "input": 2, "output": 1}
    assert usage["judge"] == {"calls": 2, "input": 8 + 20, "output": 10}
    assert (ledger.calls("teacher"), ledger.calls("judge")) == (3, 2), "the student's own work is no call of either"
    assert student_tokens(usage) == {"student_samples": 2, "student_losses": 30}


MILLION = {"calls": 10, "input": 1_000_000, "output": 500_000}


def test_dollars_are_tokens_at_list_price() -> None:
    """A million input tokens at $2 and half a million output tokens at $8 are $6."""
    assert dollars({"expand": MILLION}) == 6.0
    assert dollars({"expand": MILLION, "judge": MILLION}) == 12.0
    assert dollars({"student_samples": MILLION}) == 0.0
    assert mean_usage([{"usage": {"judge": MILLION}}, {"usage": {"judge": MILLION}}, {}]) == {
        "judge": {"input": 100_000, "output": 50_000}
    }


def line(arm: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    rounds = [{"tokens": 100, "steps": 1, "pairs": 2, "distinct": 2, "new_rows": 4}]
    return {
        "regime": "c", "arm": arm, "seed": seed, "start": 2.0, "score": score, "seed_score": score + 1.0,
        "by_round": [{"uniform": 2.0}, {"uniform": score}], "rounds": rounds, "teacher_calls": 10, "judge_calls": 0,
        **more,
    }  # fmt: skip


USAGE = {"expand": {"calls": 6, "input": 600_000, "output": 0}, "answer": {"calls": 4, "input": 0, "output": 40_000}}


def test_dollars_of_earlier_trainings_are_estimated_from_their_calls() -> None:
    """6 expansions of 100,000 input tokens are $1.20, 4 answers of 10,000 output tokens $0.32."""
    from benchmarks.learning_methods import costs

    old, new = line("A2", 0, 3.0), line("M_ifd", 0, 3.0, usage=USAGE)
    assert costs([new], [old, new]) == {"dollars": 1.52, "estimated": False, "student_tokens": {}}
    assert costs([old], [old, new]) == {"dollars": 1.52, "estimated": True, "student_tokens": {}}
    assert costs([line("A6", 0, 3.0)], [old, new])["dollars"] is None, "styled answers have other lengths"
    assert costs([old], [old])["dollars"] is None
    free = line("A0", 0, 3.0, teacher_calls=0)
    assert costs([free], [free]) == {"dollars": 0.0, "estimated": False, "student_tokens": {}}


def lines() -> list[dict[str, Any]]:
    """A2 scores 3 and 4; evolve 1 and 2 more, feedback as much as A3, 1 less and 1 more than A2."""
    found = []
    for seed, (common, evolved, other) in enumerate(((3.0, 4.0, 2.0), (4.0, 6.0, 5.0))):
        found += [line("A2", seed, common), line("M_evolve", seed, evolved, usage=USAGE)]
        found += [line("A3", seed, other), line("M_feedback", seed, other + 0.5 * seed, judge_calls=7, usage=USAGE)]
    samples = {**USAGE, "student_samples": {"calls": 8, "input": 5, "output": 90_000}}
    found += [line("M_unknown", seed, 3.0 + seed, usage=samples) for seed in range(2)]
    return [*found, {"regime": "c", "arm": "A7", "seed": 0, "stopped": "round 1: no hard row"}]


def test_the_page_has_methods_against_their_base_and_all_arms_by_gain() -> None:
    """Differences 1 and 2 have mean 1.5, standard error 0.5 and t = 12.706 at 1 degree of freedom: ± 6.35."""
    pytest.importorskip("scipy")
    pytest.importorskip("statsmodels")
    from benchmarks.learning_methods import section, which
    from benchmarks.learning_report import of_regime

    regime = of_regime(lines())
    assert regime["arms"]["M_evolve"]["interval"] == (pytest.approx(5 - 12.706), pytest.approx(5 + 12.706))
    text = section(regime)
    assert (
        "| M_evolve A2 with evolved expansions | **5.00** (-7.71 to 17.71) | 6.00 | +1.50 against A2 (-4.85 to" in text
    )
    assert "| 90,000 in samples | 10 | 0 | 1.52 |" in text
    assert "A7 stopped at random seed 0: round 1: no hard row" in text
    assert [one.split()[1] for one in text.splitlines() if one.startswith(("| A", "| M"))] == [
        "A2", "A3", "M_unknown", "M_evolve", "M_feedback",
    ]  # fmt: skip
    rows = [one.split(" | ") for one in which({"c": regime}).splitlines() if one.startswith("| c ")]
    assert [row[1].split()[0] for row in rows] == ["M_evolve", "M_feedback", "A3", "M_unknown"]
    assert [row[3] for row in rows] == ["+1.50", "+0.25", "+0.00", "+0.00"]
    assert which({"c": of_regime([line("A1", 0, 3.0)])}) == ""


def test_arms_of_a_seed_that_began_from_different_starts_are_named() -> None:
    from benchmarks.learning_report import unequal_starts

    apart = [line("A0", 0, 3.0), line("A1", 0, 3.0), line("A0", 1, 3.0), line("A1", 1, 3.0) | {"start": 2.005}]
    assert unequal_starts(apart) == {"1": [2.0, 2.005]}


def test_a_verdict_is_read_from_the_interval_alone() -> None:
    from benchmarks.learning_methods import verdict

    ends = ((0.1, 0.3), (-0.1, 0.3), (-0.3, -0.1), (0.0, 0.2))
    assert [verdict({"low": low, "high": high}) for low, high in ends] == [
        "better", "not told apart", "worse", "not told apart",
    ]  # fmt: skip
