"""Outputs of a run, declared once: path, schema, key, inputs and stage of each.

    layout = method_of(config).layout(config)
    layout.read.path                                    # "seed/read"
    layout.round(1).scored.inputs                       # its candidates, and the student before the round
    [table.path for table in layout.all()]              # in the order of their making

A method builds its layout from its config (`methods/tapir.py`). The steps name tables by their fields. `lineage.py`,
`fork.py`, `retry.py`, the reports, `--from` and `--until` use the layout too, so no path is written anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import pyarrow as pa

from tapir_ray.run.rounds import AnyRound as AnyRound
from tapir_ray.run.rounds import ControlExpansions as ControlExpansions
from tapir_ray.run.rounds import ControlRound as ControlRound
from tapir_ray.run.rounds import EladRound as EladRound
from tapir_ray.run.rounds import Round as Round
from tapir_ray.run.table import WORKING as WORKING
from tapir_ray.run.table import Begin as Begin
from tapir_ray.run.table import Table as Table

SHARDS, IMPORTED, CLASSIFIER, CONTROL = "shards", "imported", "classifier", "control"
"""Folders of a run."""
SEED_FILE, STATE = "seed_data.jsonl", "state"
"""File of rows that a simulator wrote for the run, and folder of the curriculum's state."""
REPORT_FILE = "report.html"
"""Report of a run, written again at the end of each round."""
BEGUN = frozenset({"seed", "rounds", "checkpoints", SHARDS, IMPORTED, CLASSIFIER, CONTROL, SEED_FILE, STATE})
"""Entries in the folder of a run that depend on its config, and are made again for another config."""
DATASET, DATASET_ROWS = "dataset", "dataset/data"
"""Result of a regeneration: the folder with the card, and the folder of its Parquet files."""


def shard_dir(number: int) -> str:
    """Returns the folder of a shard inside the run: `shards/00003` for 3."""
    return f"{SHARDS}/{number:05d}"


@dataclass(frozen=True)
class SuiteTables:
    """Results of a suite of `evaluate.suites` for each student, without the suite's own columns."""

    suite: str
    last: Table
    initial: Table | None = None
    control: Table | None = None

    def students(self) -> dict[str, Table]:
        """Returns the tables by student, the last one first."""
        found = {"last": self.last, "initial": self.initial, "control": self.control}
        return {name: table for name, table in found.items() if table is not None}


@dataclass(frozen=True)
class Layout:
    """Outputs of a run by name. Every method has these; each adds its own in a subclass."""

    verb: ClassVar[str]
    """Command that makes the outputs: `tapir VERB CONFIG`."""
    read: Table
    evaluation_sets: Table
    common_ngrams: Table
    ingested: Table
    contamination: Table
    seed_bands: Table

    def all(self) -> list[Table]:
        """Returns all outputs in the order of their making: the inputs of a table come before it."""
        found: dict[str, Table] = {}

        def add(table: Table) -> None:
            if table.path not in found:
                for one in table.inputs:
                    add(one)
                found[table.path] = table

        for _, table in self.items():
            add(table)
        return list(found.values())

    def items(self) -> Iterator[tuple[str, Table]]:
        """Yields (name of the field, output) for all fields, including those of each round."""
        yield from _tables(self)

    def named(self, name: str) -> list[Table]:
        """Returns the outputs of a field, one for each round; empty for a name that the method does not have."""
        return [table for known, table in self.items() if known == name]

    @property
    def stages(self) -> list[str]:
        """Names of the stages that make the outputs, in order."""
        return list(dict.fromkeys(table.stage for table in self.all() if table.stage))

    @property
    def begins(self) -> dict[str, Table]:
        """First tables by the stages that `--from` accepts."""
        return {table.begins_with.stage: table for table in self.all() if table.begins_with is not None}

    def imported(self, stage: str, schema: pa.Schema) -> Table:
        """Returns the table of a user's rows as they were read, before they become the first table of `stage`."""
        return Table(f"{IMPORTED}/{stage}", schema)


@dataclass(frozen=True)
class LoopLayout(Layout):
    """Outputs of a method that trains a student in rounds; round 0 is the initial SFT on the seed data."""

    verb = "run"
    split: Table
    labels: Table
    classifier: Table
    instructions: Table
    base: Table
    holdout: Table
    holdout_packed: Table
    sft_training: Table
    sft_packed: Table
    sft_checkpoint: Table
    rounds: tuple[AnyRound, ...]
    evaluation: Table
    """The results of the holdout for the last student."""
    suites: tuple[SuiteTables, ...]
    """The results of each of `evaluate.suites`, the holdout's among them."""
    answers: Table | None = None
    """Table with the teacher's answers to the seed data; None if the data has answers of its own."""
    control_pool: Table | None = None
    """Seed rows with their tokens, of which the control draws; None without a control."""
    controls: tuple[ControlRound, ...] = ()
    """Outputs of the control of each round; empty without one."""
    answered_training: Table | None = None
    """Training rows of the initial SFT that have these answers; None if the data has answers of its own."""
    scheduled: Table | None = None
    """Packed rows of the first round that share one learning-rate schedule; None if each round has its own."""

    def items(self) -> Iterator[tuple[str, Table]]:
        later = ("evaluation", "control_pool")
        yield from (item for item in super().items() if item[0] not in later)
        for number, one in enumerate(self.rounds):
            yield from _tables(one)
            for control in self.controls[number : number + 1]:
                yield from () if control.expansions is None else _tables(control.expansions)
                yield from _tables(control)
        yield from () if self.control_pool is None else (("control_pool", self.control_pool),)
        initial = [one.initial for one in self.suites if one.initial is not None]
        measured = (self.evaluation, *(table for one in self.suites for table in one.students().values()))
        for table in dict.fromkeys(measured):
            yield "evaluation", table
            # Another last round changes these, and no evaluation of an earlier student.
            if table not in initial:
                yield "last_evaluation", table

    def any_round(self, number: int) -> AnyRound:
        """Returns the outputs that a round of every method has, counted from 1."""
        return self.rounds[number - 1]

    def round(self, number: int) -> Round:
        """Returns the outputs of a round of TAPIR, counted from 1."""
        found = self.rounds[number - 1]
        assert isinstance(found, Round)
        return found

    @property
    def expanding(self) -> dict[int, Round]:
        """Outputs by number of the rounds that make new instructions; none of ELAD."""
        return {number: one for number, one in enumerate(self.rounds, 1) if isinstance(one, Round)}

    def ended_after(self, number: int) -> LoopLayout:
        """Returns the outputs of a run that ended after round `number`, with its student's results in `evaluation`."""
        return replace(self, rounds=self.rounds[:number], controls=self.controls[:number])

    def bands(self, number: int) -> Table:
        """Returns the near-duplicate bands of a round's rows; for round 0 those of the seed data."""
        return self.seed_bands if number == 0 else self.round(number).bands

    def training(self, number: int) -> Table:
        """Returns the training rows of a round; for round 0 those of the initial SFT."""
        return self.sft_training if number == 0 else self.any_round(number).training

    def packed(self, number: int) -> Table:
        """Returns the packed training sequences of a round; for round 0 those of the initial SFT."""
        return self.sft_packed if number == 0 else self.any_round(number).packed

    def checkpoint(self, number: int) -> Table:
        """Returns the student after a round."""
        return self.sft_checkpoint if number == 0 else self.any_round(number).checkpoint

    def training_sets(self, number: int, cumulative: bool) -> list[Table]:
        """Returns the tables that a round trains on: its own, or with `cumulative` those of all rounds so far."""
        return [self.training(one) for one in range(1 if cumulative else number, number + 1)]

    def control(self, number: int) -> ControlRound:
        """Returns the outputs of the control next to a round, counted from 1."""
        return self.controls[number - 1]

    def judged_holdout(self, number: int) -> Table:
        """Returns the table with the judge's scores of the holdout for the student after a round."""
        # The next round scores the same student, so its table has these rows too. The last one is scored on its own.
        return self.evaluation if number == len(self.rounds) else self.any_round(number + 1).scored


@dataclass(frozen=True)
class EladLayout(LoopLayout):
    """Outputs of ELAD."""

    pool_answers: Table | None = None
    """Table with the teacher's answers to the rows of the initial SFT and the holdout; None if there are none."""

    def elad_round(self, number: int) -> EladRound:
        """Returns the outputs of a round, counted from 1."""
        found = self.rounds[number - 1]
        assert isinstance(found, EladRound)
        return found

    def training_sets(self, number: int, cumulative: bool) -> list[Table]:
        """Returns the training set of the round, which has the revisions of earlier rounds too if it is cumulative."""
        return [self.training(number)]


@dataclass(frozen=True)
class EvaluationLayout(LoopLayout):
    """Outputs of a run that trains nothing: its last student is the model that it measures."""

    verb = "eval"


@dataclass(frozen=True)
class ShardLayout(Layout):
    """Outputs of a method that makes a dataset shard by shard."""

    verb = "regenerate"
    checked: Table
    labelled: Table
    """Name, schema and key for all shards: `labelled.of(shard)` is the table of one, as with `regenerated`."""
    regenerated: Table


def _tables(group: Any) -> Iterator[tuple[str, Table]]:
    """Yields (name, output) for the fields of a dataclass that are outputs."""
    for one in fields(group):
        value = getattr(group, one.name)
        if isinstance(value, Table):
            yield one.name, value
