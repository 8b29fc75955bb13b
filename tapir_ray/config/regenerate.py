"""Settings of `tapir regenerate`, and the combinations that are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tapir_ray.config.classify import Classify
from tapir_ray.config.curriculum import Curriculum
from tapir_ray.config.data import SeedData
from tapir_ray.config.method import Filter
from tapir_ray.config.section import Count, Section, key

Operation = Literal["filter", "decontaminate", "classify", "rebalance", "answer", "rewrite", "judge"]
MOST_ROWS = 1_000_000
"""Most rows of a shard: a task that continues a shard holds the keys of its finished rows in memory."""


class Shards(Section):
    """Shards of the dataset. Each is a table of its own, and a stopped one is continued."""

    rows: Annotated[int, Field(ge=1, le=MOST_ROWS)] = MOST_ROWS
    """Rows of a shard; the last one may have fewer."""
    at_once: Count = key(4, invalidates=())
    """Shards of one pipeline, which share its workers and engines. Each worker that sends requests holds 200 bytes of
    memory for each reply."""


class Regenerate(Section):
    """Regeneration of a dataset, without training. Operations run in this order, whatever their order in the config:

    - `filter`: removes rows that fail the section `filter`, and near-duplicates.
    - `decontaminate`: removes rows that share text with `filter.evaluation_sets`.
    - `classify`: gives each row a task, by the section `classify`.
    - `rebalance`: keeps `balanced_rows` rows, by the task weights of `curriculum`.
    - `answer`: the teacher answers rows without an answer, or all (`seed_data.responses`: `fill` or `replace`).
    - `rewrite`: gives answers the style of the task: new ones by `rewrite.mode`, the file's own by a rewriting.
    - `judge`: keeps the better of the file's answer and the teacher's.
    """

    operations: Annotated[list[Operation], Field(min_length=1)]
    balanced_rows: Count | None = None
    """Rows that `rebalance` keeps; a task with too few rows for its weight gives all it has."""
    shards: Shards = Shards()

    @model_validator(mode="after")
    def _each_once(self) -> Regenerate:
        for operation in self.operations:
            if self.operations.count(operation) > 1:
                raise ValueError(f"operations names {operation} twice")
        return self

    def does(self, operation: Operation) -> bool:
        """Whether an operation is configured."""
        return operation in self.operations

    def asks(self, classify: Classify) -> bool:
        """Whether the teacher or the judge gets requests."""
        by_teacher = self.does("classify") and classify.by == "teacher"
        return by_teacher or self.answers or self.does("judge")

    @property
    def answers(self) -> bool:
        """Whether the teacher writes answers."""
        return self.does("answer") or self.does("rewrite")

    def refuse(self, seed_data: SeedData, classify: Classify, curriculum: Curriculum, filter: Filter) -> None:
        """Raises ValueError, naming the keys, if the operations contradict other sections."""
        self._refuse_tasks(classify, curriculum)
        if self.does("answer") == (seed_data.responses == "keep"):
            raise ValueError(
                "the operation answer needs seed_data.responses: fill (answers that are missing) or replace (all)"
                if self.does("answer")
                else f"seed_data.responses: {seed_data.responses} has no effect without the operation answer"
            )
        if self.does("judge") and seed_data.responses != "replace" and not self.does("rewrite"):
            raise ValueError(
                "the operation judge compares the file's answer with a new one: add rewrite, or answer with "
                "seed_data.responses: replace"
            )
        if self.does("decontaminate") != bool(filter.evaluation_sets):
            raise ValueError(
                "the operation decontaminate needs filter.evaluation_sets: files with the instructions to remove"
                if self.does("decontaminate")
                else "filter.evaluation_sets has no effect without the operation decontaminate"
            )

    def _refuse_tasks(self, classify: Classify, curriculum: Curriculum) -> None:
        labels = classify.by in ("deberta", "teacher")
        if self.does("classify") != labels:
            raise ValueError(
                f"the operation classify needs classify.by deberta or teacher, not {classify.by}"
                if self.does("classify")
                else f"classify.by {classify.by} has no effect without the operation classify"
            )
        if classify.by == "deberta" and classify.label_rows:
            raise ValueError(
                "regenerate trains no classifier: train one by `tapir classifier train`, name it in classify.model and "
                "set classify.label_rows: 0"
            )
        for operation in self.operations:
            if operation in ("rebalance", "rewrite") and not labels and classify.by != "column":
                raise ValueError(
                    f"the operation {operation} needs the task of each row: add the operation classify, or set "
                    "seed_data.task_column and classify.by column"
                )
        if self.does("rebalance") != (self.balanced_rows is not None):
            raise ValueError("regenerate.balanced_rows and the operation rebalance go together: give both or neither")
        if self.does("rebalance") and curriculum.tasks == "seed":
            raise ValueError(
                "curriculum.tasks seed keeps the task shares as they are: set other weights, or remove rebalance"
            )
