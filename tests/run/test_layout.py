"""The layout declares a run once: its outputs in order, the outputs of config keys, and no path anywhere else."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tapir_ray
from tapir_ray.config import Config, parse
from tapir_ray.config.keys import invalidated_by
from tapir_ray.methods import METHODS, layout_of
from tapir_ray.methods.tapir import layout
from tapir_ray.run.layout import EladLayout, LoopLayout, ShardLayout, Table
from tapir_ray.run.lineage import changed_by, following
from tapir_ray.run.tree import tree
from tests.config.test_keys import keys

PACKAGE = Path(tapir_ray.__file__).parent
PAGE = PACKAGE.parent / "docs" / "run.md"
DECLARING = ("run/layout.py", "methods/")
FOLDERS = ("seed/", "rounds/", "checkpoints/", "evaluation/", "control/", "imported/", "shards/")


def config(**sections: Any) -> Config:
    return parse({"name": "x", "seed_data": {"path": "a"}, "student": {"model": "m"}, **sections})


REGENERATION = config(regenerate={"operations": ["filter"]})
MEASURED = config(evaluate={"only": True, "suites": ["my:Capitals"]})
WITH_CONTROL = config(control="sft", curriculum={"rounds": 2})
RANDOM = config(control="random", curriculum={"rounds": 2})
ELAD = config(method="elad", curriculum={"rounds": 2}, seed_data={"path": "a", "responses": "fill"})


def literals(source: str) -> Iterator[str]:
    """Yields the texts in a module's code, including those of f-strings, without its docstrings."""
    code = ast.parse(source)
    docs = {id(node.value) for node in ast.walk(code) if isinstance(node, ast.Expr)}
    for node in ast.walk(code):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def paths(source: str) -> list[str]:
    """Returns the texts that contain the path of an output."""
    return [text for text in literals(source) if any(folder in text for folder in FOLDERS)]


def test_no_path_of_an_output_is_outside_the_layout() -> None:
    found = {
        str(file.relative_to(PACKAGE)): bad
        for file in PACKAGE.rglob("*.py")
        if not str(file.relative_to(PACKAGE)).startswith(DECLARING) and (bad := paths(file.read_text()))
    }
    assert found == {}
    assert paths((PACKAGE / "methods/tapir.py").read_text()), "the search finds nothing"
    assert paths('"""seed/read"""\nrun.read(f"rounds/{n}/scored")') == ["rounds/"]


@pytest.mark.parametrize(
    "given",
    [config(), WITH_CONTROL, RANDOM, ELAD, REGENERATION],
    ids=["tapir", "sft", "random", "elad", "regenerate"],
)
def test_every_output_has_its_own_path_and_comes_after_its_inputs(given: Config) -> None:
    made: list[Table] = []
    for table in layout_of(given).all():
        assert table not in made and set(table.inputs) <= set(made)
        made.append(table)
        if table.schema is not None:
            assert set(table.key) <= set(table.schema.names), table


@pytest.mark.parametrize(
    "given",
    [config(), WITH_CONTROL, RANDOM, ELAD, REGENERATION],
    ids=["tapir", "sft", "random", "elad", "regenerate"],
)
def test_a_working_table_belongs_to_one_output_only(given: Config) -> None:
    made = layout_of(given).all()
    for table in made:
        turn = table.working("turn_1")
        assert posixpath.dirname(turn.path) == posixpath.dirname(table.path)
        assert (turn.schema, turn.key) == (table.schema, table.key)
        for name in (turn.name, turn.working("answered").name):
            assert {one.name for one in made if one.is_working(name)} == {table.name}
        assert not any(one.is_working(table.name) for one in made)


def test_outputs_named_by_config_keys_exist_in_a_method() -> None:
    filled = config(seed_data={"path": "a", "responses": "fill"}, train={"schedule": "whole"})
    layouts = [layout_of(filled), layout_of(WITH_CONTROL), layout_of(RANDOM), layout_of(ELAD), layout_of(REGENERATION)]
    known = {name for tables in layouts for name, _ in tables.items()}
    assert {name for key in keys(Config) for name in invalidated_by(key, Config)} <= {*known, "summary"}


def test_an_output_has_the_same_name_in_every_round() -> None:
    tables = layout(config(curriculum={"rounds": 2}))
    assert [table.path for table in tables.named("scored")] == ["rounds/01/scored", "rounds/02/scored"]
    assert tables.named("read") == [tables.read] and tables.named("regenerated") == []
    assert tables.judged_holdout(1) == tables.round(2).scored and tables.judged_holdout(2) == tables.evaluation
    assert tables.round(2).scored.inputs == (tables.round(2).candidates, tables.round(1).checkpoint)


def test_a_control_is_made_next_to_each_round_from_its_tokens() -> None:
    tables = layout(WITH_CONTROL)
    first, second = tables.controls
    assert {first.training.path, first.checkpoint.path} == {"control/sft/01/training", "control/sft/01/checkpoint"}
    assert tables.round(1).packed in first.training.inputs and tables.sft_checkpoint in first.packed.inputs
    assert {tables.round(2).packed, first.training} < set(second.training.inputs)
    assert first.checkpoint in second.packed.inputs, "it continues the control of the round before"
    made = [table.path for table in tables.all()]
    assert made.index("checkpoints/01") < made.index("control/sft/01/holdout")
    others = [table for table in tables.all() if not table.path.startswith("control/")]
    assert not any(one.path.startswith("control/") for table in others for one in table.inputs), "nothing depends on it"
    ended = tables.ended_after(1)
    expanded = layout(RANDOM).named("generated")
    assert [table.path for table in expanded if "control" in table.path] == [
        "control/random/01/generated", "control/random/02/generated"
    ]  # fmt: skip
    assert (len(ended.rounds), len(ended.controls)) == (1, 1) and ended.judged_holdout(1) == tables.evaluation


def test_a_table_of_a_shard_has_the_schema_of_the_whole_table() -> None:
    tables = layout_of(REGENERATION)
    assert isinstance(tables, ShardLayout)
    one = tables.labelled.of("shards/00003")
    assert (one.path, one.schema, one.key) == ("shards/00003/labelled", tables.labelled.schema, tables.labelled.key)


def test_the_loop_stops_after_the_stages_of_the_layout() -> None:
    code = ast.parse((PACKAGE / "methods/tapir.py").read_text())
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call) and ast.unparse(node.func) == "stop.after"]
    stages = {ast.literal_eval(argument) for call in calls for argument in call.args}
    assert stages == set(layout(WITH_CONTROL).stages)
    assert layout(WITH_CONTROL).stages[-3:] == ["train", "control", "evaluate"], "in their order in the loop"
    assert "control" not in layout(config()).stages


def test_a_round_of_elad_depends_on_the_annotations_before_it() -> None:
    tables = layout_of(ELAD)
    assert isinstance(tables, EladLayout)
    first, second = tables.elad_round(1), tables.elad_round(2)
    assert second.candidates.inputs == (tables.instructions, first.annotated)
    assert {first.annotated, second.annotated} == set(second.training.inputs) and second.continued is not None
    assert tables.judged_holdout(1) == second.scored and tables.judged_holdout(2) == tables.evaluation
    assert tables.training_sets(2, cumulative=True) == [second.training], "it has the earlier revisions itself"
    stages = ["ingest", "classify", "sft", "score", "explain", "annotate", "mix", "train", "evaluate"]
    assert [stage for stage in tables.stages if stage != "sft"] == [stage for stage in stages if stage != "sft"]
    random = layout_of(config(method="elad", elad={"select": "random"}))
    assert random.named("continued") == [] and random.named("selected") != []
    stale = {table.path for table in following(changed_by(["elad.revise"], tables), tables)}
    assert "rounds/01/annotated" in stale and "rounds/01/selected" not in stale


def test_every_method_has_a_config_that_runs_it() -> None:
    assert {config().work, ELAD.work, REGENERATION.work, MEASURED.work} == set(METHODS)
    assert isinstance(layout_of(config()), LoopLayout)


def test_the_page_of_runs_has_the_outputs_and_the_columns_that_a_stage_needs() -> None:
    page = PAGE.read_text()
    for given in (config(curriculum={"rounds": 1}), REGENERATION):
        assert tree(layout_of(given)) in page
    rows = dict(re.findall(r"^\| `(\w+)` \| (`messages`.*) \|$", page, re.MULTILINE))
    columns = {stage: tuple(re.findall(r"`(\w+)`", text.split(" (")[0])) for stage, text in rows.items()}
    assert columns == {stage: table.needed for stage, table in layout(config()).begins.items()}
