"""The end of a run: which round's student is the result, and which training data was left out."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.data.schemas import HOLDOUT, INSTRUCTIONS, SCORED, SEED, conform, pair_id
from tapir_ray.evaluate.holdout_scores import selects
from tapir_ray.report.summary import print_table, summarise
from tapir_ray.steps.context import Context
from tapir_ray.train.loop import RESULT_FILE
from tests.steps.contexts import context_for, write
from tests.transforms.test_pack_stats import WHOLE

ROUNDS = 3
SELECTING = next(name for name in map(str, range(99)) if selects(name, 0, 0.5))
REPORTING = next(name for name in map(str, range(99)) if not selects(name, 0, 0.5))


def done(folder: Path, scores: list[float | None], **sections: Any) -> Context:
    """Returns a run of three rounds; `scores` are of the holdout after each, beginning with the initial SFT."""
    seed = write(folder / "seed.jsonl", [{"instruction": "q", "output": "a"}])
    context = context_for(folder, seed, curriculum={"rounds": ROUNDS}, **sections)
    run = context.run
    tables = [*(f"rounds/{number:02d}/scored" for number in range(1, ROUNDS + 1)), "evaluation/holdout"]
    for table, score in zip(tables, scores, strict=True):
        row = {"split": HOLDOUT, "task": "Math", "status": "ok", "student_score": score}
        held = [{**row, "instruction_id": row_id} for row_id in (SELECTING, REPORTING)]
        trained_on = {**row, "instruction_id": "seed", "split": SEED, "student_score": 10.0}
        failed = {**row, "instruction_id": "failed", "status": "failed", "student_score": 10.0}
        run.write_rows(table, conform([*held, trained_on, failed] if score is not None else [], SCORED))
    for number in range(ROUNDS + 1):
        run.publish(f"checkpoints/{number:02d}")
    for table in (
        "seed/packed",
        "seed/holdout_packed",
        *(f"rounds/{number:02d}/packed" for number in range(1, ROUNDS + 1)),
    ):
        run.publish(table, extra=asdict(WHOLE))
    return context


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([4.0, 5.0, 7.0, 6.0], 2),
        ([4.0, 5.0, 6.0, 7.0], 3),
        ([8.0, 5.0, 6.0, 7.0], 0),
        ([4.0, 7.0, 7.0, 7.0], 1),
        ([None, None, 3.0, 2.0], 2),
        ([None, None, None, None], ROUNDS),
    ],
)
def test_the_best_round_on_the_holdout_is_the_result(tmp_path: Path, scores: list[float | None], best: int) -> None:
    """Of equal rounds the first one is the result, since later ones made it no better. Without a holdout score the
    last is."""
    context = done(tmp_path, scores)
    summary = summarise(context)
    assert summary["best_round"] == best
    assert summary["student"] == context.run.uri_of(f"checkpoints/{best:02d}")
    assert context.run.read_json("summary.json") == summary


@pytest.mark.parametrize(
    ("scores", "choice"),
    [
        ([None, None, 3.0, 2.0], "student of round 2, the best on 1 rows of the holdout:"),
        ([None] * 4, "student of round 3, the last, as no holdout row chooses:"),
    ],
)
def test_the_table_tells_how_the_student_was_chosen(tmp_path: Path, scores: list[float | None], choice: str) -> None:
    context, shown = done(tmp_path, scores), io.StringIO()
    print_table(summarise(context), context.run, shown)
    lines, held = " ".join(shown.getvalue().split()), any(score is not None for score in scores)
    measured = "on 1 holdout rows" if held else "score of the student on the holdout: not measured"
    assert choice in lines and measured in lines
    assert ("│ Math │ - │ - │ 3.00 │ 2.00 │" in lines) == held


def test_a_result_without_training_is_the_base_model(tmp_path: Path) -> None:
    context = done(tmp_path, [8.0, 5.0, 6.0, 7.0])
    context.run.clear("checkpoints/00")
    context.run.publish("checkpoints/00", extra={"model": "owner/chat"})
    context.run.clear("seed/packed")
    summary = summarise(context)
    assert summary["student"] == "owner/chat"
    assert summary["initial_sft"] is None
    assert summary["start"]["student_score"]["mean"] == 8.0


def test_a_student_without_initial_sft_has_its_loss_and_score_at_the_start(tmp_path: Path) -> None:
    context, shown = done(tmp_path, [8.0, 5.0, 6.0, 7.0]), io.StringIO()
    run = context.run
    run.write_rows(
        "seed/instructions", conform([{"instruction_id": "a", "split": HOLDOUT, "task": "Math"}], INSTRUCTIONS)
    )
    run.clear("checkpoints/00")
    run.publish("checkpoints/00", extra={"model": "owner/chat"})
    pairs = {"holdout_pairs_before": {pair_id("a", 0): (9.0, 3)}, "holdout_pairs": {pair_id("a", 0): (3.0, 3)}}
    run.write_json(f"checkpoints/01/{RESULT_FILE}", pairs)
    run.publish("checkpoints/01", extra={"holdout_losses": [(0, 3.0), (9, 1.0)]})
    summary = summarise(context)
    assert summary["start"]["holdout_loss"] == 3.0 and summary["start"]["holdout_loss_by_task"] == {"Math": 3.0}
    print_table(summary, run, shown)
    lines = " ".join(shown.getvalue().split())
    assert "SFT" not in lines
    assert "│ task │ start │ round 1" in lines.replace("┃", "│")
    assert "│ Math │ 3.00 │ 1.00 │ - │ - │" in lines and "│ all │ 3.00 │ 1.00 │ - │ - │" in lines


def test_the_rows_that_choose_the_round_are_not_reported(tmp_path: Path) -> None:
    """Round 2 is the best by the selecting row; the reported score is that of the other row."""
    context = done(tmp_path, [4.0, 5.0, 7.0, 6.0])
    row = {"split": HOLDOUT, "task": "Math", "status": "ok"}
    scores = {SELECTING: 9.0, REPORTING: 3.0}
    rows = [{**row, "instruction_id": name, "student_score": score} for name, score in scores.items()]
    context.run.write_rows("rounds/03/scored", conform(rows, SCORED))
    summary = summarise(context)
    assert summary["best_round"] == 2
    assert summary["rounds"][1]["student_score_after"] == {"mean": 3.0, "rows": 1, "by_task": {"Math": 3.0}}
    assert summary["holdout"]["selecting_scores"] == [4.0, 5.0, 9.0, 6.0]


def test_rounds_are_compared_on_the_rows_that_all_of_them_scored(tmp_path: Path) -> None:
    """A round whose hard rows failed would look better. A row that one round lacks counts in none."""
    context = done(tmp_path, [4.0, 5.0, 7.0, 6.0])
    second = next(name for name in map(str, range(99)) if name != SELECTING and selects(name, 0, 0.5))
    row = {"split": HOLDOUT, "task": "Math", "status": "ok"}
    for table, score in (("rounds/01/scored", 1.0), ("rounds/02/scored", 1.0), ("rounds/03/scored", 1.0)):
        rows = [{**row, "instruction_id": name, "student_score": 6.5} for name in (SELECTING, REPORTING)]
        rows.append({**row, "instruction_id": second, "student_score": score})
        context.run.write_rows(table, conform(rows, SCORED))
    summary = summarise(context)
    assert summary["holdout"]["selecting_rows"] == 1
    assert summary["holdout"]["selecting_scores"] == [6.5, 6.5, 6.5, 6.0] and summary["best_round"] == 0


def test_left_out_pairs_are_in_the_summary_and_in_the_table(tmp_path: Path) -> None:
    context = done(tmp_path, [4.0, 5.0, 7.0, 6.0])
    assert summarise(context)["initial_sft"]["warnings"] == []
    left_out = {
        "seed/packed": replace(WHOLE, over_length=30),
        "seed/holdout_packed": replace(WHOLE, template_refused=30),
        "rounds/02/packed": replace(WHOLE, cut=7),
    }
    for table, stats in left_out.items():
        context.run.publish(table, extra=asdict(stats))
    summary = summarise(context)
    assert summary["initial_sft"]["packed"] == left_out["seed/packed"].once()
    assert summary["holdout"]["packed"]["template_refused"] == 30
    assert [len(entry["warnings"]) for entry in summary["rounds"]] == [0, 1, 0]
    assert summary["rounds"][1]["packed"]["cut"] == 7
    shown = io.StringIO()
    print_table(summary, context.run, shown)
    for line in (
        "initial SFT: 30 of 100 pairs (30.0%) do not fit train.sequence_length and are left out",
        "holdout: 30 of 100 pairs (30.0%) are refused by the chat template and left out",
        "round 2: 7 of 70 pairs (10.0%) are longer than train.sequence_length and lose their end",
    ):
        assert line in shown.getvalue()


def test_the_loss_on_the_holdout_is_given_by_task(tmp_path: Path) -> None:
    """Weighted by tokens, not by pairs; the tasks are those that the rows have at the end."""
    context, shown = done(tmp_path, [4.0, 5.0, 7.0, 6.0]), io.StringIO()
    run = context.run
    tasks = {"a": "Math", "b": "Math", "c": "Roleplay", "d": None}
    rows = [{"instruction_id": name, "split": HOLDOUT, "task": task} for name, task in tasks.items()]
    run.write_rows("seed/instructions", conform([*rows, {**rows[0], "split": SEED, "task": "Code"}], INSTRUCTIONS))
    pairs = {pair_id("a", 0): (6.0, 1), pair_id("b", 0): (3.0, 8), pair_id("c", 0): (5.0, 2), pair_id("d", 0): (1.0, 4)}
    run.write_json(f"checkpoints/02/{RESULT_FILE}", {"holdout_pairs": pairs})
    run.publish("checkpoints/02", extra={"holdout_losses": [(0, 3.0), (9, 1.0)]})
    run.write_json(f"checkpoints/03/{RESULT_FILE}", {"losses": [1.0]})
    summary = summarise(context)
    assert [entry["holdout_loss_by_task"] for entry in summary["rounds"]] == [
        {}, {"(no task)": 0.25, "Math": 1.0, "Roleplay": 2.5}, {}
    ]  # fmt: skip
    print_table(summary, run, shown)
    lines = " ".join(shown.getvalue().split())
    assert "loss on the holdout (nats per response token)" in lines
    assert "│ Math │ - │ - │ - │ 1.00 │ - │" in lines and "│ all │ - │ - │ - │ 1.00 │ - │" in lines


def test_what_a_round_selected_drew_and_mixed_is_shown(tmp_path: Path) -> None:
    context, shown = done(tmp_path, [4.0, 5.0, 7.0, 6.0]), io.StringIO()
    plain = {"alpha_asked": 0.3, "threshold_asked": 2.0, "threshold": 2.0, "ceiling_asked": None, "ceiling": None}
    plain |= {"select": "hard", "hard": 40, "easy": 60, "seen": 90, "unseen": 10, "sources": {"hard": {"Math": 50}}}
    middle = {**plain, "select": "frontier", "ceiling_asked": 7.0, "threshold": 2.5, "ceiling": 6.5}
    middle |= {"sources": {"hard": {"Math": 30, "Art": 5}, "random": {"Math": 15}}}
    every = {**plain, "select": "none", "threshold_asked": None, "threshold": None, "easy": 0, "seen": 0, "unseen": 99}
    mixes = ({"probes": {}, "unscored": 0}, {"probes": {"Math": 7, "Art": 2}, "unscored": 1200}, {"probes": {}})
    for number, (plan, mix) in enumerate(zip((plain, middle, every), mixes, strict=True), start=1):
        context.run.write_json(f"rounds/{number:02d}/plan.json", {"plan": plan, "mix": {"alpha": 0.3, **mix}})
    summary = summarise(context)
    assert [entry["select"] for entry in summary["rounds"]] == ["hard", "frontier", "none"]
    assert [entry["draws"] for entry in summary["rounds"][:2]] == [{"hard": 50}, {"hard": 35, "random": 15}]
    assert [entry["probes"] for entry in summary["rounds"]] == [0, 9, 0]
    print_table(summary, context.run, shown)
    lines = " ".join(shown.getvalue().split())
    assert "round 1: 90 seen and 10 unseen candidates" in lines
    assert (
        "round 2: curriculum.difficulty.select frontier, 90 seen and 10 unseen candidates, draws from hard 35, random "
        "15, 9 probes, 1,200 unscored units in the mix" in lines
    )
    assert "round 3: curriculum.difficulty.select none, 0 seen and 99 unseen candidates" in lines


def test_every_suite_is_in_the_summary_and_all_except_the_holdout_have_a_table(tmp_path: Path) -> None:
    suites = ["holdout", "tests.steps.test_evaluate:Capitals"]
    context, shown = done(tmp_path, [4.0, 5.0, 7.0, 6.0], evaluate={"suites": suites}), io.StringIO()
    found = {"status": "ok", "task": "Europe"}
    failed = {"instruction_id": "c", "status": "failed", "reason": "bad_request: no", "task": "Europe"}
    scored = [{**found, "instruction_id": name, "student_score": score} for name, score in (("a", 1.0), ("b", 0.5))]
    context.run.write_rows("evaluation/Capitals", conform([*scored, failed], SCORED))
    before = [{**row, "student_score": 0.5} for row in scored]
    context.run.write_rows("evaluation/initial/Capitals", conform(before, SCORED))
    summary = summarise(context)
    holdout, capitals = summary["suites"]["holdout"], summary["suites"]["Capitals"]
    assert (holdout["mean"], holdout["by_category"], holdout["missing"]) == (6.0, {"Math": 6.0}, {"unknown": 1})
    assert holdout["score"] == {"value": 6.0, "low": 6.0, "high": 6.0, "rows": 1, "standard_error": None}, (
        "the half that is reported"
    )
    assert (capitals["mean"], capitals["rows"], capitals["missing"]) == (0.75, 2, {"bad_request": 1})
    assert capitals["contaminated"] is None and capitals["initial"]["mean"] == 0.5 and "control" not in capitals
    assert capitals["over_initial"]["gain"]["mean"] == 0.25
    print_table(summary, context.run, shown)
    lines = " ".join(shown.getvalue().split())
    assert "Capitals: mean score of each student on 2 items" in lines and "│ Europe │ 0.750 │ 0.500 │" in lines
    assert "Capitals, the last student: 0.750 [0.500, 1.000] on 2 items" in lines
    assert "Capitals, the last student: 1 items have no score (bad_request 1)" in lines
    assert "the last student 0.750, the initial student 0.500: +0.250 [+0.000, +0.500] (2 rows)" in lines
    assert "no difference is shown; 1 wins, 0 losses, 1 ties" in lines


def with_control(folder: Path, scores: list[float], tokens: list[int]) -> Context:
    """Returns a run of three rounds with a control; `scores` and `tokens` are the control's of each round."""
    context = done(folder, [4.0, 5.0, 7.0, 6.0], control="sft")
    row = {"split": HOLDOUT, "task": "Math", "status": "ok"}
    for number, (score, trained) in enumerate(zip(scores, tokens, strict=True), start=1):
        place = f"control/sft/{number:02d}"
        held = [{**row, "instruction_id": name, "student_score": score} for name in (SELECTING, REPORTING, "other")]
        context.run.write_rows(f"{place}/holdout", conform(held, SCORED))
        context.run.publish(f"{place}/checkpoint", extra={"tokens": trained, "holdout_losses": [(0, 3.0), (9, 2.0)]})
        context.run.publish(f"checkpoints/{number:02d}", extra={"tokens": 100_000})
    return context


def test_every_round_is_compared_with_its_control_over_all_holdout_rows(tmp_path: Path) -> None:
    """The halves of the holdout do not matter here, and a row that the student lacks is counted."""
    context, shown = with_control(tmp_path, [4.5, 7.0, 6.5], [100_900, 100_000, 99_100]), io.StringIO()
    summary = summarise(context)
    entry = summary["rounds"][0]["control"]
    assert entry["gain"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "rows": 2, "left_out": 1}
    assert (entry["student_score"]["mean"], entry["curriculum_score"]["mean"]) == (4.5, 5.0)
    assert entry["student_score"]["rows"] == 2 and entry["holdout_loss"] == 2.0
    assert (entry["tokens"], entry["curriculum_tokens"], entry["warnings"]) == (100_900, 100_000, [])
    print_table(summary, context.run, shown)
    lines = shown.getvalue()
    rows = "(2 rows, without 1 that one of them lacks)"
    assert f"round 1: curriculum +0.50 [+0.50, +0.50] over plain SFT {rows}: the curriculum paid" in lines
    assert f"round 2: curriculum +0.00 [+0.00, +0.00] over plain SFT {rows}: no difference is shown" in lines
    assert f"round 3: curriculum -0.50 [-0.50, -0.50] over plain SFT {rows}: plain SFT is better" in lines
    assert "100,000 and 99,100 tokens" in lines and "compared over all holdout rows" in lines


def test_a_control_that_trained_on_fewer_tokens_is_no_comparison(tmp_path: Path) -> None:
    context, shown = with_control(tmp_path, [4.5] * 3, [100_000, 100_000, 90_000]), io.StringIO()
    summary = summarise(context)
    assert [len(entry["control"]["warnings"]) for entry in summary["rounds"]] == [0, 0, 1]
    print_table(summary, context.run, shown)
    assert "round 3 control: trained on 90,000 tokens, the curriculum on 100,000" in shown.getvalue()


def test_a_run_without_a_control_has_none_in_its_summary(tmp_path: Path) -> None:
    context, shown = done(tmp_path, [4.0, 5.0, 7.0, 6.0]), io.StringIO()
    summary = summarise(context)
    print_table(summary, context.run, shown)
    assert [entry["control"] for entry in summary["rounds"]] == [None] * 3
    assert "curriculum" not in shown.getvalue()
