"""Items of a suite and training rows: kept apart by a run, and marked if a student was trained on their text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import ray.data

from tapir_ray.data.schemas import OK, SCORED, TRAINING, conform
from tapir_ray.evaluate.registry import suite_of
from tapir_ray.evaluate.suite import FOLLOW_UPS, Suite
from tapir_ray.run.layout import Table
from tapir_ray.steps import decontaminate
from tapir_ray.steps.context import Context
from tapir_ray.steps.item_contamination import contaminated_items, with_marks
from tapir_ray.steps.students import students
from tests.steps.contexts import context_for, write

SPEC = f"{__name__}:Rivers"
SCHEMA = pa.schema([*SCORED, (FOLLOW_UPS, pa.list_(pa.string()))])
LONG = "Name the longest river of the continent that has the most countries and tell me where it begins and ends"
NEAR = LONG.replace("Name", "State")
LATER = "Now write a short poem about the animals that live in the water of that river and on both of its banks"
FREE = "How many litres of water flow through an average garden hose in an hour if nobody stands on it all day"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Rivers(Suite):
    """Three items: two that are alike, and one with a later turn."""

    schema: ClassVar[pa.Schema] = SCHEMA

    def items(self) -> ray.data.Dataset:
        items = [("a", LONG, []), ("b", NEAR, []), ("c", FREE, [LATER])]
        rows = [
            {"instruction_id": name, "messages": user(text), FOLLOW_UPS: later, "status": OK}
            for name, text, later in items
        ]
        return ray.data.from_arrow(conform(rows, SCHEMA))

    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        return rows


def context_of(folder: Path, texts: list[str]) -> Context:
    seed = write(folder / "seed.jsonl", [{"instruction": text, "output": "a"} for text in texts])
    return context_for(folder, seed, holdout={"rows": 0}, evaluate={"suites": [SPEC]})


def training(context: Context, table: Table, texts: list[str], pool: str = "seed") -> None:
    rows: list[dict[str, Any]] = [
        {"pair_id": f"pair {at}", "messages": user(text), "pool": pool} for at, text in enumerate(texts)
    ]
    context.run.write_rows(table, conform(rows, TRAINING))


def marked(context: Context, *tables: Table) -> dict[str, str]:
    suite = suite_of(SPEC, context.run, context.config, context.loop, context.roles)
    return contaminated_items(context, suite, tables)


@pytest.mark.slow
def test_every_item_is_found_whose_text_a_training_row_has(tmp_path: Path, ray_local: None) -> None:
    """A row is like both `a` and `b`: the index names one of them, and both are marked."""
    context = context_of(tmp_path, ["q"])
    first, second, empty = Table("x/first"), Table("x/second"), Table("x/empty")
    context.run.write_rows("seed/split", conform([], SCORED))
    context.run.write_rows("seed/common_ngrams", pa.table({"hash": pa.array([], pa.uint64())}))
    training(context, first, ["Something else altogether, about the price of bread in winter", LONG])
    training(context, second, [f"Before. {LATER}"])
    training(context, empty, [])
    assert marked(context, first, empty) == {"a": "pair 1", "b": "pair 1"}
    assert marked(context, first, second) == {"a": "pair 1", "b": "pair 1", "c": "pair 0"}, "a later turn counts"
    training(context, second, [LONG], pool="probe")
    assert marked(context, second) == {} == marked(context, empty), "a probe is kept out of the training"


@pytest.mark.slow
def test_items_of_a_suite_are_kept_out_of_the_training(tmp_path: Path, ray_local: None) -> None:
    context = context_of(tmp_path, ["q"])
    context.run.write_rows("seed/common_ngrams", pa.table({"hash": pa.array([], pa.uint64())}))
    (index,) = [ray.get(found) for found in decontaminate.indexes(context).values()]
    assert set(index.sources) == {SPEC} and len(index.item_ids) == 4, "the later turn is a text of its own"
    assert index.contaminated([user(NEAR), user(LATER), user("What is the capital of Peru?")]) == [
        "exact",
        "exact",
        None,
    ]


def test_a_mark_says_what_is_known() -> None:
    batch = pa.table({"instruction_id": ["a", "b"]})
    known = with_marks(batch, {"b": "pair 7"}).to_pylist()
    assert [(row["contaminated"], row["contaminated_by"]) for row in known] == [(False, None), (True, "pair 7")]
    unknown = with_marks(batch, None).to_pylist()
    assert {(row["contaminated"], row["contaminated_by"]) for row in unknown} == {(None, None)}


def test_a_student_was_trained_on_the_rows_of_its_rounds(tmp_path: Path) -> None:
    """`base`: a round trains the base again, so that only its own rows count."""

    def of_last(**train: Any) -> tuple[str, ...] | None:
        seed = write(tmp_path / "seed.jsonl", [{"instruction": "q", "output": "a"}])
        sections: dict[str, Any] = {"holdout": {"rows": 0}, "evaluate": {"suites": [SPEC]}, "train": train}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        context = context_for(folder, seed, curriculum={"rounds": 2}, control="none", **sections)
        tables = ["seed/training", "rounds/01/training", "rounds/02/training", "checkpoints/00", "checkpoints/02"]
        for table in tables:
            context.run.publish(table)
        (one,) = students(context, context.loop.suites[0], ["last"])
        return None if one.trained_on is None else tuple(table.path for table in one.trained_on)

    assert of_last() == ("seed/training", "rounds/01/training", "rounds/02/training")
    assert of_last(init_from="base") == ("rounds/02/training",)
    assert of_last(init_from="base", data="cumulative") == ("rounds/01/training", "rounds/02/training")
