"""`tapir retry` of a regeneration: only the failed rows of finished shards are generated again."""

from __future__ import annotations

from pathlib import Path

from tapir_ray.data.schemas import INSTRUCTIONS, OK, conform, instruction_id
from tapir_ray.run.retry import retry_failed
from tapir_ray.steps.reanswer import REGENERATED, reanswer
from tapir_ray.steps.shards import cut_table, own_table
from tests.steps.contexts import context_for, rows_of, write


def row(text: str, **values: str | None) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    return {
        "instruction_id": instruction_id(messages), "source": text, "messages": messages, "response": "a",
        "task": "Math", "status": OK, **values,
    }  # fmt: skip


def test_failed_rows_of_finished_shards_are_generated_again(tmp_path: Path, ray_local: None) -> None:
    source = write(tmp_path / "a.jsonl", [{"instruction": "i", "output": "o"}])
    settings = {"operations": ["filter", "classify"], "shards": {"rows": 3}}
    context = context_for(tmp_path, source, regenerate=settings, classify={"by": "teacher"})
    run = context.run
    unlabelled = {"task": None, "status": "failed", "reason": "unknown_label: x"}
    good, timed_out = [row("1"), row("2")], {"status": "failed", "reason": "timeout"}
    tables = {
        "shards/00000/labelled": [*good, row("3", **unlabelled)],
        "shards/00000/regenerated": [row("1", **timed_out), row("2", task="Grammar"), row("3", **unlabelled)],
        "shards/00001/labelled": [row("4")],
        "shards/00001/regenerated": [row("4")],
    }
    run.write_rows("seed/ingested", conform([row(str(n)) for n in range(1, 5)], INSTRUCTIONS))
    for table, rows in tables.items():
        run.write_rows(table, conform(rows, REGENERATED if table.endswith("regenerated") else INSTRUCTIONS))
    for name in ("summary.json", "balance.json", "dataset/data/00000.parquet", "dataset/data/00001.parquet"):
        run.fs.create_dir(run.path("dataset/data"), recursive=True)
        run.write_text(name, "{}")
    before = run.read_json("shards/00001/regenerated/_manifest.json")
    assert retry_failed(run, context.config, context.layout) == {
        "shards/00000/regenerated": 2,
        "shards/00000/labelled": 1,
    }
    assert not run.exists("summary.json") and not run.exists("dataset/data/00000.parquet")
    assert run.exists("balance.json") and run.exists("dataset/data/00001.parquet")
    assert run.read_json("shards/00001/regenerated/_manifest.json") == before

    # The row has a label now. Finished outputs stay, and the other rows are made from their labels.
    run.write_rows("shards/00000/labelled", conform([*good, row("3")], INSTRUCTIONS))
    shards = [own_table(run, shard, context.shards.labelled) for shard in cut_table(run, context.layout.ingested, 3)]
    reanswer(context, shards, None)
    made = {found["source"]: (found["status"], found["task"]) for found in rows_of(context, "shards/00000/regenerated")}
    assert made == {"1": (OK, "Math"), "2": (OK, "Grammar"), "3": (OK, "Math")}
    assert retry_failed(run, context.config, context.layout) == {}
