"""Tables of a run that an export reads: by default the rows that students were trained on, in every round.

tables = trained_on(run, layout)                      # seed/training, rounds/01/training, …
tables = named(run, layout, "generated")              # the field of a round, in every round; or a path
"""

from __future__ import annotations

from collections.abc import Sequence

from tapir_ray.errors import InputError
from tapir_ray.run.layout import SHARDS, EvaluationLayout, Layout, LoopLayout, ShardLayout, Table, shard_dir
from tapir_ray.run.run import Run

NEEDED = ("instruction_id", "messages", "response")
"""Columns of a table that can be exported."""
OF_PAIRS = (*NEEDED, "student_response", "teacher_score", "student_score", "position_gap", "scored_by")
"""Columns of a table that gives preference pairs."""


def trained_on(run: Run, layout: Layout) -> list[Table]:
    """Returns the training sets of the initial SFT and of every trained round; of a regeneration its shards.

    Raises InputError if nothing is trained or regenerated yet, and for a run that trains nothing.
    """
    if isinstance(layout, ShardLayout):
        return _shards(run, layout)
    loop = _loop(run, layout)
    found = [loop.sft_training] if is_trained(run, loop.sft_checkpoint) and run.done(loop.sft_training) else []
    numbers = range(1, len(loop.rounds) + 1)
    found += [loop.training(number) for number in numbers if is_trained(run, loop.checkpoint(number))]
    if not found:
        raise InputError(f"{run.uri} has trained no student yet: {_name_one(run, layout, NEEDED)}")
    return found


def scored(run: Run, layout: Layout) -> list[Table]:
    """Returns the scored tables of all rounds. Raises InputError if there is none, and for other runs than a loop."""
    if isinstance(layout, ShardLayout):
        raise InputError(f"{run.uri} is a regeneration, which has no student's answers to prefer others to")
    found = [one.scored for one in _loop(run, layout).rounds if run.done(one.scored)]
    if not found:
        raise InputError(f"{run.uri} has scored no round yet: let it go on (tapir run)")
    return found


def named(run: Run, layout: Layout, name: str, needed: Sequence[str] = NEEDED) -> list[Table]:
    """Returns the finished tables of a path (`rounds/01/generated`) or of a field (`generated`: in every round).

    Raises InputError, which lists the tables to choose from, for another name.
    """
    there = _finished(run, layout, needed)
    if isinstance(layout, ShardLayout) and name in ("labelled", "regenerated"):
        found = [table for table in there if table.name == name]
    else:
        fields = {table.path for table in layout.named(name)}
        found = [table for table in there if table.path == name.strip("/") or table.path in fields]
    if not found:
        raise InputError(f"--table {name}: {_name_one(run, layout, needed)}")
    return found


def is_trained(run: Run, checkpoint: Table) -> bool:
    """Returns whether a checkpoint is finished and holds a student that the run has trained."""
    made = run.done(checkpoint)
    return made is not None and "model" not in made.extra


def _loop(run: Run, layout: Layout) -> LoopLayout:
    if isinstance(layout, EvaluationLayout) or not isinstance(layout, LoopLayout):
        raise InputError(f"{run.uri} only measures a model: give a run that trains (tapir run) or regenerates")
    return layout


def _shards(run: Run, layout: ShardLayout) -> list[Table]:
    found = [table for table in _shard_tables(run, layout) if table.name == layout.regenerated.name]
    ingested = run.done(layout.ingested)
    done = sum(run.manifest(table).rows for table in found)
    if ingested is None or done != ingested.rows:
        rows = "no" if ingested is None else f"{done:,} of {ingested.rows:,}"
        raise InputError(f"{run.uri} has regenerated {rows} rows: continue it first (tapir regenerate)")
    return found


def _shard_tables(run: Run, layout: ShardLayout) -> list[Table]:
    numbers = sorted(int(name) for name in run.children(SHARDS) if name.isdigit())
    made = [table.of(shard_dir(number)) for table in (layout.labelled, layout.regenerated) for number in numbers]
    return [table for table in made if run.done(table)]


def _finished(run: Run, layout: Layout, needed: Sequence[str]) -> list[Table]:
    """Returns the finished tables of a layout with these columns, in order."""
    shards = _shard_tables(run, layout) if isinstance(layout, ShardLayout) else []
    every = [*(table for table in layout.all() if "*" not in table.path), *shards]
    rows = [table for table in every if table.schema is not None and set(needed) <= set(table.schema.names)]
    return [table for table in rows if run.done(table)]


def _name_one(run: Run, layout: Layout, needed: Sequence[str]) -> str:
    there = [table.path for table in _finished(run, layout, needed)]
    if not there:
        return "the run has no finished table of rows yet"
    return f"name a finished table by --table, one of {', '.join(there)}"
