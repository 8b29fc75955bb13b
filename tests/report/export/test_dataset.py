"""Exported datasets: read back by the project's own readers with the same ids, and nothing left out without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_ray.config import parse as parse_config
from tapir_ray.data.files import list_files
from tapir_ray.data.formats import parse
from tapir_ray.data.readers import read_raw
from tapir_ray.data.schemas import GENERATED_ROWS, INSTRUCTIONS, instruction_id
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError
from tapir_ray.methods import layout_of
from tapir_ray.report.export import dataset, files
from tapir_ray.report.export.dataset import export_dataset
from tapir_ray.report.export.student import export_student
from tapir_ray.run.layout import ShardLayout, shard_dir
from tapir_ray.run.run import Run
from tapir_ray.transforms.user_rows import completed
from tests.report.export.runs import ANSWERS, LICENSE, TEACHER, finished_run, instruction, messages_of, write
from tests.s3 import bucket

FORMATS = ("alpaca", "openai", "sharegpt", "parquet", "hf")
LEFT = {"repeated: an exported row has it": 5}
HELD_BACK = {
    "alpaca": {"alpaca has no place for its turns": 1, "alpaca cannot mask an earlier answer": 1},
}
"""Rows of the run that a format cannot hold."""


def read(folder: Path | str) -> dict[str, Any]:
    """Returns the conversations of a folder as `seed_data.path` reads them, by id."""
    found = {}
    for file in list_files(str(folder), "seed_data.path"):
        for _, row in read_raw(file):
            (one,) = parse(row)
            found[instruction_id(one.messages)] = one
    return found


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_exported_is_read_back_with_the_same_ids(tmp_path: Path, format: str) -> None:
    run, _ = finished_run(tmp_path)
    out = tmp_path / "out"
    made = export_dataset(run.uri, layout_of, str(out), format)
    held_back = HELD_BACK.get(format, {})
    assert made.counts.reasons == {**LEFT, **held_back}
    names = [name for name in ANSWERS if not held_back or name not in ("LONG", "GREETED")]
    found = read(out)
    assert found.keys() == {instruction_id(messages_of(name)) for name in names}
    for name in names:
        one = found[instruction_id(messages_of(name))]
        assert (one.messages, one.response) == (messages_of(name), ANSWERS[name])
        assert one.masked_turns == ((2,) if name == "LONG" else ())
    if format != "openai":  # OpenAI's fine-tuning refuses other columns
        one = found[instruction_id(messages_of("NEW"))]
        assert one.meta["teacher_model"] == TEACHER and one.meta["table"] == "rounds/01/training"
        assert found[instruction_id(messages_of("PLAIN"))].meta["license"] == LICENSE


@pytest.mark.parametrize("format", ["openai", "parquet", "hf"])
def test_an_export_can_begin_a_stage_of_a_run(tmp_path: Path, format: str) -> None:
    run, _ = finished_run(tmp_path)
    export_dataset(run.uri, layout_of, str(tmp_path / "out"), format)
    needed = ("messages", "response")
    (file,) = list_files(str(tmp_path / "out"), "--from mix:", "all")
    rows = [completed(raw, place, GENERATED_ROWS, needed, generated=True) for place, raw in read_raw(file)]
    assert {row["instruction_id"] for row in rows} == {instruction_id(messages_of(name)) for name in ANSWERS}
    by_id = {row["instruction_id"]: row for row in rows}
    for name, answer in ANSWERS.items():
        row = by_id[instruction_id(messages_of(name))]
        assert (row["status"], row["messages"], row["response"]) == ("ok", messages_of(name), answer)
        assert row["masked_turns"] == ([2] if name == "LONG" else None)


def test_an_answer_that_is_there_twice_is_malformed() -> None:
    whole = [*messages_of("NEW"), {"role": "assistant", "content": "50"}]
    row = completed({"messages": whole, "response": "51"}, "a.jsonl:1", INSTRUCTIONS, ("messages",), generated=False)
    assert row["reason"].startswith("malformed: a.jsonl:1: messages ends with a turn of the assistant")


def test_the_card_counts_what_was_left_out_and_names_no_folder(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    export_dataset(run.uri, layout_of, str(tmp_path / "out"), "alpaca")
    card = (tmp_path / "out" / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["license"] == LICENSE and "synthetic" in said["tags"]
    assert said["configs"][0]["data_files"][0]["path"] == "data/*.jsonl"
    for line in (
        "| read from rounds/02/training | 3 |",
        "| left out: repeated: an exported row has it | 5 |",
        "| left out: alpaca cannot mask an earlier answer | 1 |",
        "| in this dataset | 3 |",
        "| seed/ingested | filtered: contamination_holdout | 1 |",
        "| rounds/01/generated | failed: timeout | 1 |",
        "| seed/contamination | holdout | exact | 1 |",
        f"| {TEACHER} | 1 |",
        "check them before you pass the data on",
    ):
        assert line in text, line
    assert str(tmp_path) not in card, "a card must not publish local folders"


def test_another_table_is_exported_without_its_dropped_and_held_out_rows(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    made = export_dataset(run.uri, layout_of, str(tmp_path / "a"), "openai", table="seed/instructions")
    assert made.counts.reasons == {
        "filtered: duplicate": 1,
        "filtered: contamination_holdout": 1,
        "holdout: never trained on": 1,
    }
    made = export_dataset(run.uri, layout_of, str(tmp_path / "b"), "openai", table="generated")
    assert made.tables == ("rounds/01/generated", "rounds/02/generated")
    assert made.counts.exported == 1 and made.counts.reasons["failed: timeout"] == 2
    with pytest.raises(InputError, match=r"--table rounds/01/pool: name a finished table.*one of seed/ingested, seed"):
        export_dataset(run.uri, layout_of, str(tmp_path / "c"), "openai", table="rounds/01/pool")
    assert not (tmp_path / "c").exists()


def test_a_marked_row_has_the_id_of_its_text(tmp_path: Path) -> None:
    run, tables = finished_run(tmp_path)
    marked = [{"role": "user", "content": "Add 20 and 30.\n\nStep by step."}]
    row = {**instruction("NEW"), "messages": marked, "pair_id": "p", "copy": 0, "pool": "hard", "tokens": 4}
    write(run, tables.round(1).training, [{name: row.get(name) for name in tables.round(1).training.row_schema.names}])
    export_dataset(run.uri, layout_of, str(tmp_path / "out"), "parquet", table="rounds/01/training")
    (row_id,) = read(tmp_path / "out")
    (_, raw), *_ = read_raw(str(tmp_path / "out" / "data" / "train-00000.parquet"))
    assert raw["instruction_id"] == row_id == instruction_id(marked)
    assert raw["teacher_model"] == TEACHER, "looked up by the id in the run"


def test_a_taken_target_is_refused_and_kept(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    out, mine = tmp_path / "out", tmp_path / "mine"
    export_dataset(run.uri, layout_of, str(out), "openai")
    before = (out / "README.md").read_text()
    with pytest.raises(InputError, match="is not empty: give --overwrite to replace an export, or another --out"):
        export_dataset(run.uri, layout_of, str(out), "alpaca")
    assert (out / "README.md").read_text() == before
    export_dataset(run.uri, layout_of, str(out), "parquet", overwrite=True)
    assert sorted(path.name for path in (out / "data").iterdir()) == ["train-00000.parquet"]
    mine.mkdir()
    (mine / "thesis.txt").write_text("three years")
    with pytest.raises(InputError, match="is no export"):
        export_dataset(run.uri, layout_of, str(mine), "openai", overwrite=True)
    (mine / "README.md").write_text("# My thesis on tapir-ray\n\n---\ntags:\n- tapir-ray\n---\n")
    with pytest.raises(InputError, match="is no export"):
        export_dataset(run.uri, layout_of, str(mine), "openai", overwrite=True)
    for inside in (run.uri, f"{run.uri}/seed/labels"):
        with pytest.raises(InputError, match="is in the folder of the run"):
            export_dataset(run.uri, layout_of, inside, "openai", overwrite=True)
    assert (mine / "thesis.txt").read_text() == "three years"


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    out = tmp_path / "deep" / "out"

    def fail(folder: Path) -> None:
        assert (folder / "README.md").exists()
        raise OSError("the network")

    with pytest.raises(OSError, match="the network"):
        export_dataset(run.uri, layout_of, str(out), "hf", finish=fail)
    assert list(out.parent.iterdir()) == []


def test_a_large_dataset_goes_to_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, tables = finished_run(tmp_path)
    rows = []
    for number in range(250):
        messages = [{"role": "user", "content": f"Add {number} and 1."}]
        rows.append({**instruction("NEW"), "messages": messages, "instruction_id": instruction_id(messages)})
    write(run, tables.instructions, rows)
    monkeypatch.setattr(files, "FILE_BYTES", 1_000)
    monkeypatch.setattr(dataset, "BATCH_ROWS", 100)
    made = export_dataset(run.uri, layout_of, str(tmp_path / "out"), "sharegpt", table="seed/instructions")
    assert len(list((tmp_path / "out" / "data").iterdir())) == 3
    assert made.counts.exported == len(read(tmp_path / "out")) == 250


def test_a_run_without_trained_rows_is_told_what_to_name(tmp_path: Path) -> None:
    run, tables = finished_run(tmp_path)
    for table in (tables.sft_checkpoint, *(one.checkpoint for one in tables.rounds)):
        run.clear(table)
    with pytest.raises(InputError, match=r"has trained no student yet: name a finished table by --table, one of seed/"):
        export_dataset(run.uri, layout_of, str(tmp_path / "out"), "openai")
    write(run, tables.ingested, [])
    with pytest.raises(InputError, match=r"no row of seed/ingested can be exported as openai \(the tables are empty\)"):
        export_dataset(run.uri, layout_of, str(tmp_path / "out"), "openai", table="seed/ingested")
    with pytest.raises(InputError, match="holds no run"):
        export_dataset(str(tmp_path / "nowhere"), layout_of, str(tmp_path / "out"), "openai")


def test_a_saved_dataset_is_refused_on_an_object_store(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    with pytest.raises(InputError, match="read from a local folder: take --format parquet"):
        export_dataset(run.uri, layout_of, "s3://bucket/out", "hf")


@pytest.mark.slow
def test_an_object_store_gets_all_files_and_the_card_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = finished_run(tmp_path)
    with bucket() as uri:
        out = f"{uri}/exports/mine"
        export_dataset(run.uri, layout_of, out, "openai")
        export_dataset(run.uri, layout_of, out, "parquet", overwrite=True)
        assert list_files(out, "seed_data.path") == [f"{uri}/exports/mine/./data/train-00000.parquet"]
        assert read(out).keys() == {instruction_id(messages_of(name)) for name in ANSWERS}
        with pytest.raises(InputError, match="is not empty: give --overwrite"):
            export_dataset(run.uri, layout_of, out, "parquet")
        monkeypatch.setattr(files.pafs, "copy_files", lambda *_, **__: (_ for _ in ()).throw(OSError("the network")))
        with pytest.raises(OSError, match="the network"):
            export_dataset(run.uri, layout_of, out, "parquet", overwrite=True)
        assert not Storage.at(out).exists("README.md"), "an export that is cut short has no card"


def test_a_regeneration_gives_the_ok_rows_of_its_shards(tmp_path: Path) -> None:
    content = {"name": "again", "seed_data": {"path": "private/rows.jsonl"}, "regenerate": {"operations": ["filter"]}}
    run, tables = Run.open(parse_config(content), str(tmp_path / "run")), layout_of(parse_config(content))
    assert isinstance(tables, ShardLayout)
    rows = [instruction(name, teacher_model=TEACHER) for name in ("PLAIN", "LONG", "NEW")]
    rows.append(instruction("SYSTEM", status="filtered", reason="near_duplicate: a"))
    write(run, tables.ingested, rows)
    for number, part in enumerate((rows[:2], rows[2:])):
        with pytest.raises(InputError, match=f"has regenerated {2 * number} of 4 rows"):
            export_dataset(run.uri, layout_of, str(tmp_path / "out"), "parquet")
        write(run, tables.regenerated.of(shard_dir(number)), part)
    made = export_dataset(run.uri, layout_of, str(tmp_path / "out"), "parquet")
    assert made.tables == ("shards/00000/regenerated", "shards/00001/regenerated")
    assert made.counts.reasons == {"filtered: near_duplicate": 1}
    found = read(tmp_path / "out")
    assert {one.response for one in found.values()} == {ANSWERS[name] for name in ("PLAIN", "LONG", "NEW")}
    assert "| left out: filtered: near_duplicate | 1 |" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(InputError, match="is a regeneration, which has no student's answers"):
        export_dataset(run.uri, layout_of, str(tmp_path / "two"), "preference")
    with pytest.raises(InputError, match="is a regeneration, which trains no student"):
        export_student(run.uri, layout_of, str(tmp_path / "two"))
