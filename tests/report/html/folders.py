"""Folders of runs for the tests of the report: finished, under way and empty ones, written without Ray or models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tapir_ray.curriculum import tasks
from tapir_ray.curriculum.plan import make_plan
from tapir_ray.curriculum.stats import ScoreStats, table_stats
from tapir_ray.data.schemas import GENERATED_ROWS, HOLDOUT, INSTRUCTIONS, SCORED, SEED, TRAINING, conform
from tapir_ray.run.attempts import owned
from tapir_ray.run.run import Run
from tapir_ray.steps.contamination_list import CONTAMINATION
from tapir_ray.steps.context import Context
from tapir_ray.train.loop import RESULT_FILE
from tests.steps.contexts import context_for, write

SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
"""Text of a row that runs in a page which does not escape it."""
TASKS = ("Math", "Reasoning", "Writing")
ROWS = 24


def finished_run(folder: Path, rounds: int = 2, better: float = 1.0, control: str = "sft", name: str = "a") -> str:
    """Returns the folder of a finished run whose student gains `better` points a round; the control gains 0.2."""
    context = started_run(folder / name, rounds, control)
    run, loop = context.run, context.loop
    with owned(run) as run.attempt:
        for number in range(1, rounds + 1):
            _score(context, number, better)
            _train(context, number)
            if control != "none":
                table = loop.control(number)
                run.write_rows(table.evaluation, conform(scored(number, 0.2, only_holdout=True), SCORED))
                _trained(context, table.checkpoint, 1.5)
        run.write_rows(loop.evaluation, conform(scored(rounds, better, only_holdout=True), SCORED))
        summary = {"name": "test", "status": "done", "rounds": [], "suites": {}, "best_round": rounds,
                   "student": run.uri_of(loop.checkpoint(rounds).path), "holdout": {"selecting_rows": 4}}  # fmt: skip
        run.write_json("summary.json", summary)
        run.attempt = 0
    return run.uri


def started_run(folder: Path, rounds: int = 2, control: str = "none", **sections: Any) -> Context:
    """Returns a run that has read its seed data and trained its first student."""
    folder.mkdir(parents=True)
    seed = write(folder / "seed.jsonl", [{"instruction": f"question {n}", "output": "answer"} for n in range(40)])
    context = context_for(
        folder,
        seed,
        curriculum={"rounds": rounds, "difficulty": {"threshold": 2.0}},
        control=control,
        **sections,
    )
    run, loop = context.run, context.loop
    rows = [
        {"instruction_id": f"s{n}", "split": SEED, "messages": asked(f"question {n}"), "response": "answer",
         "task": TASKS[n % 3], "status": "ok" if n else "filtered", "reason": None if n else "duplicate"}
        for n in range(40)
    ]  # fmt: skip
    for table in (loop.ingested, loop.instructions):
        run.write_rows(table, conform(rows, INSTRUCTIONS))
    run.write_rows(loop.contamination, CONTAMINATION.empty_table())
    _trained(context, loop.sft_checkpoint, 3.0)
    run.event("stage", round=0, stage="sft", seconds=30.0)
    usage = {"label": {"requests": 40, "input_tokens": 4000, "output_tokens": 80}}
    zero = dict.fromkeys(("cached_tokens", "reasoning_tokens", "cached_requests", "failed", "surcharge"), 0)
    counts = {kind: {**zero, **one} for kind, one in usage.items()}
    run.write_json("usage/00001.json", {"counts": {"teacher": counts}, "unsettled": {}, "reserved": [], "resolved": []})
    return context


def regeneration(folder: Path) -> str:
    """Returns the folder of a regeneration with one finished shard, one of whose rows has a script in its texts."""
    folder.mkdir(parents=True)
    seed = write(folder / "seed.jsonl", [{"instruction": f"question {n}", "output": "answer"} for n in range(9)])
    operations = ["filter", "classify", "rewrite", "judge"]
    context = context_for(folder, seed, regenerate={"operations": operations}, classify={"by": "teacher"})
    run, layout = context.run, context.shards
    rows = [
        {"instruction_id": f"s{n}", "split": SEED, "messages": asked(SCRIPT if n == 1 else f"question {n}"),
         "response": "kept", "task": TASKS[n % 3], "status": "ok" if n else "filtered",
         "reason": None if n else "duplicate", "other_response": "other", "new_score": 8.0, "old_score": float(n),
         "preferred": "new" if n < 8 else "old"}
        for n in range(9)
    ]  # fmt: skip
    run.write_rows(layout.checked, conform(rows, INSTRUCTIONS))
    run.write_rows(layout.ingested, conform(rows, INSTRUCTIONS))
    run.write_rows(layout.contamination, CONTAMINATION.empty_table())
    for table in (layout.labelled, layout.regenerated):
        run.write_rows(table.of("shards/00000"), conform(rows, table.row_schema))
    return run.uri


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def scored(number: int, better: float, only_holdout: bool = False) -> list[dict[str, Any]]:
    """Returns the rows of a table of scores after `number` rounds; one has a script in its texts."""
    rows = []
    for n in range(ROWS if only_holdout else 2 * ROWS):
        held = n < ROWS
        student = min(10.0, 3.0 + better * number + 0.25 * (n % 5))
        question = SCRIPT if n == 1 else f"holdout question {n}" if held else f"question {n}"
        rows.append(
            {"instruction_id": f"{'h' if held else 's'}{n}", "split": HOLDOUT if held else SEED, "task": TASKS[n % 3],
             "messages": asked(question), "response": "the teacher's answer to it", "status": "ok",
             "student_response": SCRIPT if n == 2 else "word " * (n % 9 + 1), "finish_reason": "stop",
             "meta": json.dumps({"level": 1 + n % 2}), "teacher_score": 9.0, "student_score": student,
             "difficulty": 9.0 - student, "position_gap": 0.5 * (n % 3), "repeat_mfd": 9.0 - student + 0.5 * (n % 2),
             "repeat_same": False, "scored_by": "judge", "response_chars": 26, "times_trained": 0,
             "student_response_chars": 5 * (n % 9 + 1)}
        )  # fmt: skip
    return rows


def _score(context: Context, number: int, better: float) -> None:
    run, tables = context.run, context.loop.round(number)
    rows = scored(number - 1, better)
    rows.append({**rows[-1], "instruction_id": "refused", "status": "filtered", "reason": "judge_refused"})
    run.write_rows(tables.scored, conform(rows, SCORED))
    stats: ScoreStats = table_stats(conform(rows[ROWS:-1], SCORED), context.config.judge.min_teacher_score)
    plan = make_plan(number, stats, context.config, tasks.load(context.config.curriculum))
    mix = {"round": number, "unit": "tokens", "size": 900, "alpha": plan.alpha, "share": 0.31, "weights": plan.weights,
           "warnings": ["a warning of the mix"]}  # fmt: skip
    run.write_json(tables.plan, {"plan": plan.model_dump(mode="json"), "mix": mix})
    run.event("stage", round=number, stage="score", seconds=60.0 * number)


def _train(context: Context, number: int) -> None:
    run, tables = context.run, context.loop.round(number)
    made = [
        {"draw_id": f"d{number}-{n}", "instruction_id": f"g{number}-{n}", "task": TASKS[n % 3], "status": "ok",
         "messages": asked(f"new question {n}"), "response": "new answer"}
        for n in range(20)
    ]  # fmt: skip
    for n, reason in enumerate(("duplicate", "contamination_holdout: ngram", SCRIPT)):
        made[n] |= {"status": "filtered", "reason": reason}
    run.write_rows(tables.generated, conform(made, GENERATED_ROWS))
    listed = [{"instruction_id": f"g{number}-1", "contaminated_by": "holdout", "rule": "ngram", "item_source": "seed",
               "shared_text": SCRIPT}]  # fmt: skip
    run.write_rows(tables.contamination, conform(listed, CONTAMINATION))
    pairs = [
        {
            "pair_id": f"p{n}",
            "instruction_id": f"s{n}",
            "task": TASKS[n % 2],
            "pool": "hard",
            "tokens": 10,
            "status": "ok",
        }
        for n in range(12)
    ]
    run.write_rows(tables.training, conform(pairs, TRAINING))
    _trained(context, tables.checkpoint, 3.0 - number)
    run.event("stage", round=number, stage="train", seconds=90.0)


def _trained(context: Context, checkpoint: Any, loss: float) -> None:
    run: Run = context.run
    held = [[0, loss + 0.4], [200, loss + 0.1]]
    run.publish(checkpoint, extra={"steps": 200, "tokens": 9000, "first_loss": loss + 1, "last_loss": loss,
                                   "holdout_losses": held})  # fmt: skip
    run.write_json(f"{checkpoint}/{RESULT_FILE}", {"losses": [loss + 1 - n / 200 for n in range(200)]})
