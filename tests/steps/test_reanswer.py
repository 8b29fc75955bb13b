"""Answers set aside for regeneration, and the rows of a shard in the published dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from tapir_ray.config import SeedData
from tapir_ray.data.formats import parse
from tapir_ray.data.schemas import INSTRUCTIONS, conform, instruction_id
from tapir_ray.errors import StageError
from tapir_ray.steps import dataset
from tapir_ray.steps.dataset import export_shard
from tapir_ray.steps.reanswer import REGENERATED, reanswer, set_aside
from tapir_ray.steps.shards import Shard, Span, cut_table
from tests.steps.contexts import context_for, rows_of, write

LOCAL = pafs.LocalFileSystem()


def row(text: str, **values: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    found = {"instruction_id": instruction_id(messages), "messages": messages, "task": "Math", "status": "ok"}
    return {**found, **values}


@pytest.mark.parametrize(
    ("replaces", "styled", "expected"),
    [
        (True, [], [(None, "a"), (None, "b"), (None, None), ("d", None)]),
        (False, ["Math"], [(None, "a"), ("b", None), (None, None), ("d", None)]),
        (False, [], [("a", None), ("b", None), (None, None), ("d", None)]),
    ],
)
def test_regenerated_answers_are_set_aside_in_other_response(
    replaces: bool, styled: list[str], expected: list[tuple[str | None, str | None]]
) -> None:
    rows = [
        row("1", response="a"),
        row("2", response="b", task=None),
        row("3"),
        row("4", response="d", status="filtered", reason="duplicate"),
    ]
    found = set_aside(conform(rows, REGENERATED), replaces, styled).to_pylist()
    assert [(one["response"], one["other_response"]) for one in found] == expected


@pytest.mark.parametrize("batch_rows", [1, 2, 2_000])
def test_a_shard_of_the_dataset_has_whole_conversations_of_the_ok_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    monkeypatch.setattr(dataset, "BATCH_ROWS", batch_rows)
    rows = [
        row("1", response="a", preferred="new", teacher_model="t", other_response="x"),
        row("2", response="b", status="filtered", reason="rebalanced"),
        row("3", status="failed", reason="timeout"),
        row("4", response="d", task=None),
    ]
    files = [str(tmp_path / f"{at}.parquet") for at in range(2)]
    for file, some in zip(files, (rows[:3], rows[3:]), strict=True):
        pq.write_table(conform(some, REGENERATED), file)
    target = tmp_path / "data/00000.parquet"
    target.parent.mkdir()
    # A file truncated by an error is written again.
    pq.write_table(pq.read_table(files[0]).slice(0, 0), target)
    for _ in range(2):
        counted = export_shard(files, LOCAL, str(target), 2)
        assert counted == {"task": {"Math": 1}, "preferred": {"new": 1}, "teacher_model": {"t": 1}}
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["00000.parquet"]
    first, second = pq.read_table(target).to_pylist()
    assert first["messages"] == [{"role": "user", "content": "1"}, {"role": "assistant", "content": "a"}]
    assert first["other_response"] == "x" and "status" not in first
    # The reader of this package accepts the dataset.
    (again,) = parse(second, SeedData().format)
    assert (again.messages, again.response) == ([{"role": "user", "content": "4"}], "d")


def test_a_shard_that_cannot_be_written_is_an_error_in_one_sentence(ray_local: None, tmp_path: Path) -> None:
    source = write(tmp_path / "seed.jsonl", [{"instruction": "1", "output": "a"}])
    context = context_for(tmp_path, source, regenerate={"operations": ["filter"]})
    rows = conform([row("1", response="a"), row("2", response="b")], REGENERATED)
    for table in ("seed/read", "shards/00000/regenerated"):
        context.run.write_rows(table, rows)
    (file,) = context.run.files("shards/00000/regenerated")
    Path(file).write_bytes(b"cut short")
    with pytest.raises(StageError, match=r"^dataset/data/00000\.parquet was not written: .+; fix that") as error:
        dataset.publish(context, [Shard("shards/00000", (Span(file, 0, 2),))])
    assert "\n" not in str(error.value)


def test_all_groups_of_shards_are_one_stage_of_the_progress(tmp_path: Path, ray_local: None) -> None:
    """A metric that restarts with every group would not show the progress of the whole."""
    source = write(tmp_path / "a.jsonl", [{"instruction": "i", "output": "o"}])
    settings = {"operations": ["filter"], "shards": {"rows": 2, "at_once": 1}}
    context = context_for(tmp_path, source, regenerate=settings)
    context.run.progress = context.progress
    context.run.write_rows("seed/ingested", conform([row(str(n), response="a") for n in range(5)], INSTRUCTIONS))
    shards = cut_table(context.run, context.layout.ingested, 2)
    reanswer(context, shards[1:], None)
    context.progress._stages.clear()
    reanswer(context, shards, None)
    (stage,) = (stage for stage in context.progress._stages if stage.table)
    assert (stage.label, stage.kept, stage.rows, stage.expected) == ("reanswer", 3, 5, 5)
    assert sum(len(rows_of(context, f"{shard.name}/regenerated")) for shard in shards) == 5


@pytest.mark.parametrize(("begun", "removed_after"), [(0, [0, 1, 2]), (1, [1, 2])])
def test_replies_are_deleted_with_their_group_except_those_of_a_started_shard(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch, begun: int, removed_after: list[int]
) -> None:
    """True also if fewer shards are in progress at once than in the attempt that started it."""
    source = write(tmp_path / "a.jsonl", [{"instruction": "i", "output": "o"}])
    settings = {"operations": ["filter"], "shards": {"rows": 2, "at_once": 1}}
    context = context_for(tmp_path, source, regenerate=settings)
    run, removed = context.run, list[int]()
    run.write_rows("seed/ingested", conform([row(str(n), response="a") for n in range(5)], INSTRUCTIONS))
    shards = cut_table(run, context.layout.ingested, 2)
    run.fs.create_dir(run.path(f"{shards[begun].name}/regenerated"), recursive=True)
    done = lambda: sum(run.done(f"{shard.name}/regenerated") is not None for shard in shards)  # noqa: E731
    monkeypatch.setattr(context.roles.replies, "forget", lambda: removed.append(done() - 1))
    reanswer(context, shards, None)
    assert removed == removed_after
