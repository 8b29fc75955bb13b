"""What `tapir regenerate` does to a dataset, and which of it does not go together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tapir_ray.config.classify import Classify
from tapir_ray.config.data import SeedData
from tapir_ray.config.method import Curriculum, Filter
from tapir_ray.config.section import Count, Section, key

Operation = Literal["filter", "decontaminate", "classify", "rebalance", "answer", "rewrite", "judge"]
MOST_ROWS = 1_000_000
"""Of a shard: the keys of its finished rows lie in one task's memory when it is continued."""


class Shards(Section):
    """How the dataset is cut. A shard is a table of its own: there, or continued where it was stopped."""

    rows: Annotated[int, Field(ge=1, le=MOST_ROWS)] = MOST_ROWS
    """Rows of a shard at most; all but the last have as many."""
    at_once: Count = key(4, invalidates=())
    """Shards that go through one pipeline, so that its workers and engines start once for all of them; each worker that
    asks has 200 bytes in memory of each of their replies."""


class Regenerate(Section):
    """A dataset produced anew, without training; always done in the order of the operations below.

    `filter`: the rows that fail the section `filter`, and near-duplicates. `decontaminate`: what overlaps with
    `filter.evaluation_sets`. `classify`: a task for every row, by `classify`. `rebalance`: `balanced_rows` rows, by the
    task weights of `curriculum`. `answer`: the teacher writes answers, which ones says `seed_data.responses` (`fill` or
    `replace`). `rewrite`: answers in the style of the task, new ones as `rewrite.mode` says, the file's own rewritten.
    `judge`: of the file's answer and the teacher's the better is kept.
    """

    operations: Annotated[list[Operation], Field(min_length=1)]
    balanced_rows: Count | None = None
    """Rows that `rebalance` leaves; tasks that have too few for their weight give all they have."""
    shards: Shards = Shards()

    @model_validator(mode="after")
    def _each_once(self) -> Regenerate:
        for operation in self.operations:
            if self.operations.count(operation) > 1:
                raise ValueError(f"operations names {operation} twice")
        return self

    def does(self, operation: Operation) -> bool:
        return operation in self.operations

    def asks(self, classify: Classify) -> bool:
        """Whether anything is asked of the teacher or the judge."""
        by_teacher = self.does("classify") and classify.by == "teacher"
        return by_teacher or self.answers or self.does("judge")

    @property
    def answers(self) -> bool:
        """Whether the teacher writes answers."""
        return self.does("answer") or self.does("rewrite")

    def refuse(self, seed_data: SeedData, classify: Classify, curriculum: Curriculum, filter: Filter) -> None:
        """Raises ValueError, which names the keys, where the operations do not go with the other sections."""
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
                "the operation decontaminate needs filter.evaluation_sets, files whose instructions are left out"
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
                "regenerate trains no classifier: make one by `tapir classifier train`, name it in classify.model and "
                "set classify.label_rows: 0"
            )
        for operation in self.operations:
            if operation in ("rebalance", "rewrite") and not labels and classify.by != "column":
                raise ValueError(
                    f"the operation {operation} needs the tasks: add the operation classify, or name "
                    "seed_data.task_column with classify.by column"
                )
        if self.does("rebalance") != (self.balanced_rows is not None):
            raise ValueError("regenerate.balanced_rows and the operation rebalance go together: give both or neither")
        if self.does("rebalance") and curriculum.tasks == "seed":
            raise ValueError("curriculum.tasks seed weighs the tasks as they are: name other weights, or no rebalance")
