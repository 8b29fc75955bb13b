"""Judge: scores the teacher's and the student's answer.

    scored = judge(answered, config, roles, random_seed)

Scores are 1 to 10. Pairwise scores are asked in both orders and averaged, which cancels a bias for the first answer.
The difficulty measure writes `difficulty` (curriculum/measures). `repeat_mfd` is an MFD under any measure.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray.data

from tapir_ray.config import Config, Judge
from tapir_ray.data import schemas
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.judge_question import Questions, Verdict, ask
from tapir_ray.transforms.judge_request import NotJudged, together
from tapir_ray.transforms.rubric_json import Marks
from tapir_ray.transforms.verifiers import Verified, Verifier, load_verifiers, verify

MOST_REASONS = 2_000
"""Characters of a judge's reply that are kept for the teacher."""


@dataclass(frozen=True)
class Judging:
    """One judging of a row."""

    teacher_score: float
    student_score: float
    position_gap: float | None
    """Absolute difference of the MFDs of the two orders; None if only one was asked."""
    texts: tuple[str, ...]
    """Replies that the scores were read from."""
    marks: tuple[Marks, Marks] | None = None
    """Under a rubric the score of each criterion, of the teacher's and of the student's answer."""


def judge(
    rows: ray.data.Dataset, config: Config, roles: Roles, random_seed: int, schema: pa.Schema = schemas.SCORED
) -> ray.data.Dataset:
    """Returns `rows` as `schema` with scores, position_gap, the repeat's columns and both answer lengths.

    - A row whose answers are both graded by a verifier (`judge.verifiers`) gets its scores without a request. If a
      verifier finds one of them wrong and cannot grade the other, the judge scores the other alone.
    - A share `judge.verified_share` of the verified rows is judged as well, for `judged_mfd`.
    - Rows that are not ok, or have no response to compare with, pass unchanged.
    - A share `judge.repeat_share` of the rows, chosen by a hash of their id, is judged twice, the second time with
      other seeds and at `judge.repeat_temperature`. At 0 nothing is repeated, since the replies could not differ.
    - A row fails as `unparseable_scores` after `judge.parse_attempts` replies that hold no scores or are cut off.
    """
    return roles.ask(rows, JudgeRow.of(config, random_seed), schema)


@dataclass(frozen=True)
class JudgeRow:
    """The AskRow of `judge`."""

    questions: Questions
    settings: Judge
    random_seed: int
    verifiers: Mapping[str, Verifier] = field(default_factory=dict)
    keeps_reasons: bool = False
    """Whether `judge_reasons` gets the judge's first reply."""

    @classmethod
    def of(cls, config: Config, random_seed: int) -> JudgeRow:
        """Returns the AskRow of a config. Raises InputError for a verifier or a taxonomy file that cannot be used."""
        verifiers, keeps = load_verifiers(config.judge.verifiers), config.expand.prompt == "feedback"
        return cls(Questions.of(config), config.judge, random_seed, verifiers, keeps)

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != schemas.OK or row["response"] is None:
            return row
        response, answer = row["response"], row.get("student_response") or ""
        lengths = {"response_chars": len(response), "student_response_chars": len(answer)}
        if (verified := verify(self.verifiers, row, response, answer)) is not None:
            return {**row, **lengths, **await self._verified(clients["judge"], row, verified)}
        judgings = [self.judging(clients["judge"], row, "first")]
        chosen = self._in_share(row["instruction_id"], "repeat", self.settings.repeat_share)
        if chosen and self.settings.repeated_at(clients["judge"].target.endpoint) > 0.0:
            judgings.append(self.judging(clients["judge"], row, "repeat"))
        judged = await asyncio.gather(*judgings, return_exceptions=True)
        first, *repeat = judged
        for one in judged:
            # A row that the budget interrupted is asked again as a whole; finished replies are in the response cache.
            if isinstance(one, NotJudged) and one.reason == schemas.BUDGET_USED_UP:
                first = one
        if isinstance(first, NotJudged):
            return {**row, **lengths, "status": first.status, "reason": first.reason}
        if isinstance(first, BaseException):
            raise first
        scores: dict[str, Any] = {
            "teacher_score": first.teacher_score,
            "student_score": first.student_score,
            "position_gap": first.position_gap,
            "scored_by": schemas.JUDGE,
            "criterion_scores": None if first.marks is None else json_of(*first.marks),
        }
        if self.keeps_reasons:
            scores["judge_reasons"] = first.texts[0][:MOST_REASONS]
        if repeat and isinstance(repeat[0], Judging):
            scores["repeat_mfd"] = repeat[0].teacher_score - repeat[0].student_score
            scores["repeat_same"] = repeat[0].texts == first.texts
        return {**row, **lengths, **scores}

    async def _verified(self, client: Client, row: Row, verified: Verified) -> Row:
        """Returns the scores of a row with a verifier; the judge scores an answer that the verifier could not grade.

        In a sample of fully verified rows the judge compares both answers as well, for `judged_mfd`.
        """
        answers = {"teacher": row["response"], "student": row.get("student_response") or ""}
        scores = {"teacher": verified.teacher_score, "student": verified.student_score}
        row_id = row["instruction_id"]
        found: Row = {"scored_by": verified.verifier}
        try:
            for whose in [whose for whose, score in scores.items() if score is None]:
                seed = (row_id, str(self.random_seed), "unverified", whose)
                scores[whose] = (await self._ask_one(client, row, answers[whose], seed, 0.0)).scores[0]
                found["scored_by"] = f"{verified.verifier}, {schemas.JUDGE}"
        except NotJudged as error:
            return {"status": error.status, "reason": error.reason}
        if verified.complete and self._in_share(row_id, "verified", self.settings.verified_share):
            try:
                judged = await self.judging(client, row, "verified")
                found["judged_mfd"] = judged.teacher_score - judged.student_score
            except NotJudged as error:
                # The scores stand without the judge, unless the budget ended: then the row is asked again.
                if error.reason == schemas.BUDGET_USED_UP:
                    return {"status": error.status, "reason": error.reason}
        return {**found, "teacher_score": scores["teacher"], "student_score": scores["student"]}

    def _in_share(self, row_id: str, salt: str, share: float) -> bool:
        return share_of(schemas.order_key(row_id, self.random_seed, salt)) < share

    async def judging(self, client: Client, row: Row, judging: str) -> Judging:
        """Returns one judging of a row's two answers, the `first` or the `repeat`. Raises NotJudged."""
        response, answer = row["response"], row.get("student_response") or ""
        seed = (row["instruction_id"], str(self.random_seed), judging)
        lowest = self.settings.repeat_temperature if judging == "repeat" else 0.0
        if self.settings.mode == "pointwise":
            teacher, student = await together(
                self._ask_one(client, row, response, (*seed, "teacher"), lowest),
                self._ask_one(client, row, answer, (*seed, "student"), lowest),
            )
            return Judging(teacher.scores[0], student.scores[0], None, (teacher.text, student.text))
        orders = [(response, answer), (answer, response)] if self.settings.both_orders else [(response, answer)]
        instruction, task = schemas.text_of(row["messages"]), row.get("task")
        questions = [self.questions.pair(instruction, task, one, two) for one, two in orders]
        verdicts = await together(
            *(
                ask(client, question, self.settings, (*seed, str(order)), lowest)
                for order, question in enumerate(questions)
            )
        )
        return judging_of(verdicts)

    async def _ask_one(self, client: Client, row: Row, answer: str, seed: tuple[str, ...], lowest: float) -> Verdict:
        question = self.questions.one(schemas.text_of(row["messages"]), row.get("task"), answer)
        return await ask(client, question, self.settings, seed, lowest)


def judging_of(verdicts: Sequence[Verdict]) -> Judging:
    """Returns the mean of the verdicts of one or both orders; in the second the student's answer is the first."""
    texts = tuple(verdict.text for verdict in verdicts)
    first, *swapped = verdicts
    (teacher_1, student_1), marks = first.scores, first.marks
    if not swapped:
        return Judging(teacher_1, student_1, None, texts, None if marks is None else (marks[0], marks[1]))
    student_2, teacher_2 = swapped[0].scores
    gap = abs((teacher_1 - student_1) - (teacher_2 - student_2))
    both = None
    if marks is not None and (others := swapped[0].marks) is not None:
        both = mean_marks(marks[0], others[1]), mean_marks(marks[1], others[0])
    return Judging((teacher_1 + teacher_2) / 2, (student_1 + student_2) / 2, gap, texts, both)


def mean_marks(*marks: Marks) -> Marks:
    """Returns the mean mark of each criterion."""
    return {name: sum(one[name] for one in marks) / len(marks) for name in marks[0]}


def json_of(teacher: Marks, student: Marks) -> str:
    """Returns the column `criterion_scores` of a row."""
    return json.dumps({"teacher": teacher, "student": student})


async def score_answer(
    client: Client, questions: Questions, settings: Judge, row: Row, answer: str, seed: tuple[str, ...]
) -> float:
    """Returns the judge's score of one answer to a row's instruction, 1 to 10. Raises NotJudged."""
    question = questions.one(schemas.text_of(row["messages"]), row.get("task"), answer)
    return (await ask(client, question, settings, seed)).scores[0]


def share_of(key: str) -> float:
    """Returns a hash key as a number in [0, 1): a share p of all keys is below p."""
    # 13 hex digits are 52 bits, which a float holds exactly.
    return int(key[:13], 16) / 16**13
