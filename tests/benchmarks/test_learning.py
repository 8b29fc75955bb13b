"""Learning benchmark: arms share start, tokens and steps, and contrasts have the intervals of a paired t test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning_arms import ARMS, CONTRASTS, REGIMES, Regime

TINY = Regime("tiny", "a few rows", 400, 8_192, 4_096, 150, {"score.max_rows": 300}, start_share=2 / 3)
"""The start leaves a third of the rows: two arms measure the difficulty of unseen rows."""

WITHOUT_JUDGE = {"A0", "A0t", "A1", "A2", "M_evolve"} | {
    f"M_{name}" for name in ("ifd", "superfilter", "self_consistency", "frontier", "unknown")
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch

    from benchmarks.learning_trial import make_start

    folder = tmp_path_factory.mktemp("start")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the benchmark: two threads take longer for matrices of this size
    make_start(TINY, 0, folder)
    yield folder
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_trains_as_many_tokens_and_steps_as_the_control(name: str, start: Path) -> None:
    from benchmarks.learning_trial import trial

    line, control = (trial(TINY, ARMS[arm], 0, start) for arm in (name, "A0"))
    assert line["start"] == control["start"]
    for made, plain in zip(line["rounds"], control["rounds"], strict=True):
        assert made["steps"] == plain["steps"] == 4_096 // 256 // 4
        # A start of 8,000 tokens gets nearly all rows wrong. A7 then has a mix of a few rows, its easy pool twice.
        if name != "A7":
            assert abs(made["tokens"] - plain["tokens"]) < 0.1 * plain["tokens"], "both pack nearly full sequences"
    assert (line["judge_calls"] > 0) == (name not in WITHOUT_JUDGE), "only a selection by the judge's scores asks it"
    assert (line["teacher_calls"] > 0) == (name != "A0")
    usage = line["usage"]
    assert usage.get("judge", {"calls": 0})["calls"] == line["judge_calls"]
    assert ("student_samples" in usage) == (name in ("M_self_consistency", "M_frontier", "M_unknown"))
    assert ("student_losses" in usage) == (name in ("M_ifd", "M_superfilter"))
    for made in line["rounds"]:
        assert ("weights" in made) == (name == "M_ddk")


def test_contrasts_name_arms_that_differ() -> None:
    for one, other, _ in CONTRASTS:
        assert one in ARMS and other in ARMS and one != other
        first, second = (replace(ARMS[arm], name="", what="") for arm in (one, other))
        assert first != second


def line(arm: str, seed: int, score: float) -> dict[str, Any]:
    return {"regime": next(iter(REGIMES)), "arm": arm, "seed": seed, "score": score, "seed_score": score}


def test_a_contrast_is_paired_by_seed_and_corrected() -> None:
    """Differences 1, 2, 3 have mean 2, standard error 1/√3 and t = 4.303 for 95 % at 2 degrees of freedom."""
    pytest.importorskip("scipy")
    pytest.importorskip("statsmodels")
    from benchmarks.learning_report import contrasts

    by_arm = {
        "A0": {seed: line("A0", seed, 10.0 * seed) for seed in range(3)},
        "A1": {seed: line("A1", seed, 10.0 * seed + 1 + seed) for seed in range(3)},
        "A2": {seed: line("A2", seed, 10.0 * seed + 1 + seed + (-1) ** seed) for seed in range(4)},
    }
    fresh, balance = contrasts(by_arm, "score")
    assert (fresh["contrast"], fresh["seeds"], fresh["mean"]) == ("A1 − A0", 3, 2.0)
    assert fresh["low"] == pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-3)
    assert fresh["high"] == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-3)
    assert fresh["p_holm"] == pytest.approx(2 * fresh["p"], abs=1e-3), "the smaller of two p values is doubled"
    assert balance["p_holm"] == pytest.approx(max(balance["p"], fresh["p_holm"]), abs=1e-3)
