"""A finished run on disk, written without Ray and without a model: its tables, checkpoints and summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from tapir_ray.config import parse
from tapir_ray.data.schemas import (
    TRAINING,
    Message,
    conform,
    instruction_id,
    pair_id,
)
from tapir_ray.methods.tapir import layout
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run
from tapir_ray.steps.contamination_list import CONTAMINATION

TEACHER, LICENSE, WEIGHTS = "gpt-4.1", "cc-by-4.0", "model.safetensors"
PLAIN = [{"role": "user", "content": 'Add 2 and 3.\n\nAnswer in "one" word – é, 字, \u2028 and \\n.'}]
SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
LONG = [
    {"role": "system", "content": "You are a tutor."},
    {"role": "user", "content": "What is a prime?"},
    {"role": "assistant", "content": "A number with two divisors."},
    {"role": "user", "content": "  Is 7 one?\n"},
]
GREETED = [{"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Count to 3."}]
NEW = [{"role": "user", "content": "Add 20 and 30."}]
HELD = [{"role": "user", "content": "Add 200 and 300."}]
ANSWERS = {"PLAIN": "five", "SYSTEM": " blue\n", "LONG": "Yes:\n\n7 = 1 × 7.", "GREETED": "1 2 3", "NEW": "50"}


def messages_of(name: str) -> list[Message]:
    found: list[Message] = globals()[name]
    return found


def instruction(name: str, **more: Any) -> dict[str, Any]:
    """Returns an ok row of INSTRUCTIONS."""
    messages = messages_of(name)
    return {
        "instruction_id": instruction_id(messages),
        "split": "seed",
        "messages": messages,
        "response": ANSWERS.get(name, "500"),
        "masked_turns": [2] if name == "LONG" else None,
        "task": "Math",
        "source": f"seed.jsonl:{name}",
        "license": LICENSE,
        "round": 0,
        "status": "ok",
        **more,
    }


def pair(row: dict[str, Any], pool: str = "seed", copy: int = 0) -> dict[str, Any]:
    """Returns the row of TRAINING of an instruction."""
    row = {name: value for name, value in row.items() if name in TRAINING.names}
    return {**row, "pair_id": pair_id(row["instruction_id"], copy), "copy": copy, "pool": pool, "tokens": 4}


def scored(name: str, teacher: float, student: float, gap: float | None, **more: Any) -> dict[str, Any]:
    """Returns a row of SCORED."""
    scores = {"teacher_score": teacher, "student_score": student, "position_gap": gap, "scored_by": "judge"}
    return {**instruction(name), "student_response": f"{name}?", "finish_reason": "stop", **scores, **more}


def config_of(folder: Path, **sections: Any) -> Any:
    return parse(
        {
            "name": "mine",
            "seed_data": {"path": f"{folder}/private/seed.jsonl", "license": LICENSE},
            "student": {"model": "owner/small"},
            "teacher": {"model": TEACHER},
            "curriculum": {"rounds": 2},
            "train": {"initial_sft": "on"},
            **sections,
        }
    )


def write(run: Run, table: Table, rows: list[dict[str, Any]]) -> None:
    run.write_rows(table, conform(rows, table.row_schema))


def checkpoint(run: Run, table: Table) -> None:
    """Writes a trained student of a config, texts and weights without a tensor."""
    run.write_json(f"{table}/config.json", {"model_type": "llama"})
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        run.write_text(f"{table}/{name}", "{}")
    header = json.dumps({"__metadata__": {"of": table.path}}).encode()
    run.write_bytes(f"{table}/{WEIGHTS}", len(header).to_bytes(8, "little") + header)
    run.write_text(f"{table}/train_result.json", "{}")
    run.publish(table, [], extra={"tokens": 100})


def weights_of(folder: Path) -> str:
    """Returns the path in the run of the student whose weights a folder has."""
    content = (folder / WEIGHTS).read_bytes()
    of: str = json.loads(content[8:])["__metadata__"]["of"]
    return of


def finished_run(folder: Path, **sections: Any) -> tuple[Run, LoopLayout]:
    """Returns a run of two rounds, of which the holdout chose the first."""
    config = config_of(folder, **sections)
    run, tables = Run.open(config, str(folder / "run")), layout(config)
    seed = [instruction(name) for name in ("PLAIN", "SYSTEM", "LONG", "GREETED")]
    held = instruction("HELD", split="holdout")
    dropped = instruction("PLAIN", source="seed.jsonl:9", status="filtered", reason="duplicate")
    dirty = instruction("NEW", source="seed.jsonl:8", status="filtered", reason="contamination_holdout: exact")
    for table in (tables.ingested, tables.instructions):
        write(run, table, [*seed, held, dropped, dirty])
    hit = {"instruction_id": dirty["instruction_id"], "contaminated_by": "holdout", "rule": "exact"}
    run.write_rows(tables.contamination, pa.Table.from_pylist([hit], schema=CONTAMINATION))
    write(run, tables.sft_training, [pair(row) for row in seed])
    checkpoint(run, tables.sft_checkpoint)
    new = instruction("NEW", split="generated", license=None, source=None, teacher_model=TEACHER, round=1)
    for number, one in enumerate(tables.rounds, start=1):
        rows = [scored("PLAIN", 8.0, 3.0, 1.0), scored("SYSTEM", 3.0, 8.0, 2.0), scored("LONG", 6.0, 5.0, 4.0)]
        held_row = scored("HELD", 8.0, 2.0 + 2 * number, 0.0, split="holdout")
        write(run, one.scored, [*rows, held_row])
        failed = {**new, "draw_id": "b", "status": "failed", "reason": "timeout: 3"}
        write(run, one.generated, [{**new, "draw_id": "a"}, failed])
        write(run, one.training, [pair(seed[0], "hard"), pair(new, "hard"), pair(new, "hard", 1)])
        checkpoint(run, one.checkpoint)
    write(run, tables.evaluation, [scored("HELD", 8.0, 7.0, 0.0, split="holdout")])
    run.write_json("summary.json", {"status": "done", "best_round": 1, "rounds": [{"round": 1}, {"round": 2}]})
    return run, tables
