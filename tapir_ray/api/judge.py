"""`tapir.judge`: scores of answers, from 1 to 10.

scored = tapir.judge(rows, "mine.yaml")           # rows with instruction, response and student_response
scored["teacher_score"], scored["student_score"], scored["difficulty"]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tapir_ray.api.asking import asked, asking, config_for_rows
from tapir_ray.api.caller import Caller, Tell, ignore
from tapir_ray.api.configs import ConfigLike, content_of
from tapir_ray.api.rows import STUDENT, Rows, arrow_of, conversations
from tapir_ray.config import Judge
from tapir_ray.data.schemas import OK, SCORED, with_columns
from tapir_ray.errors import InputError
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.transforms.judge import JudgeRow, score_answer
from tapir_ray.transforms.judge_question import Questions
from tapir_ray.transforms.judge_request import NotJudged

ASKS_JUDGE_ALONE = {"only": True, "suites": ["holdout"]}
"""Section `evaluate` of a config that needs no teacher, unless it is the judge."""
PAIR = ("teacher_score", "student_score", "difficulty", "position_gap", "scored_by", "status", "reason")
"""Columns that the judging of two answers adds."""
ONE = pa.schema([*SCORED, ("answer_score", pa.float64())])


def judge(rows: Rows, config: ConfigLike, *, tell: Tell | None = None) -> pa.Table:
    """Returns the rows with the judge's scores, as an Arrow table in the same order.

    - With a column `student_response`, both answers are compared, in both orders: `teacher_score` for `response`,
      `student_score`, their difference `difficulty`, and `position_gap`.
    - Without it, each `response` is graded alone: `answer_score`.

    `rows`: a path, a list of dicts, an Arrow table, a pandas frame, or a dataset of Hugging Face or Ray, with columns
    as in the seed data (docs/data.md). Under `judge.mode: rubric` a row's criteria are those of its column `task`, else
    the default ones, and compared rows get `criterion_scores`. Of `config`, `judge` (or `teacher`, if that is the
    judge), `curriculum.tasks`, `budget` and `cache` are used; keys that only a run needs have no effect and may be
    missing. `status` is `ok`, or `failed` or `filtered` with a `reason`; then the scores are null.

    Raises InputError for rows or an endpoint that cannot be used, and Stopped if the budget is used up.
    """
    table = arrow_of(rows)
    own = content_of(config).get("curriculum") or {}
    criteria = {"curriculum": {"tasks": own["tasks"]}} if "tasks" in own else {}
    given = config_for_rows(config, "judge", evaluate=ASKS_JUDGE_ALONE, **criteria)
    settings = given.judge
    found = conversations(table)
    missing = [number for number, row in enumerate(found, start=1) if row["response"] is None]
    if missing:
        raise InputError(f"row {missing[0]} has no response to judge ({len(missing)} such rows): leave it out")
    if "task" in table.column_names:
        found = [{**row, "task": task} for row, task in zip(found, table["task"].to_pylist(), strict=True)]
    pairs = STUDENT in table.column_names
    if pairs:
        answers = table[STUDENT].to_pylist()
        found = [{**row, STUDENT: answer} for row, answer in zip(found, answers, strict=True)]
    function: Any = JudgeRow.of(given, given.random_seed)
    if not pairs:
        function = _GradeRow(Questions.of(given), settings, given.random_seed)
    with asking(given, Caller(tell or ignore)) as roles:
        scored = asked(roles, found, function, SCORED if pairs else ONE)
    if not pairs:
        return with_columns(table, **{name: scored[name] for name in ("answer_score", "status", "reason")})
    import pyarrow.compute as pc

    scored = with_columns(scored, difficulty=pc.subtract(scored["teacher_score"], scored["student_score"]))
    added = (*PAIR, "criterion_scores") if settings.mode == "rubric" else PAIR
    return with_columns(table, **{name: scored[name] for name in added})


@dataclass(frozen=True)
class _GradeRow:
    """The AskRow for single answers."""

    questions: Questions
    settings: Judge
    random_seed: int

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        seed = (row["instruction_id"], str(self.random_seed), "grade")
        try:
            score = await score_answer(clients["judge"], self.questions, self.settings, row, row["response"], seed)
        except NotJudged as error:
            return {**row, "status": error.status, "reason": error.reason}
        return {**row, "answer_score": score, "status": OK}
