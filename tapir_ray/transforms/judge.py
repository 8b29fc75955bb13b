"""Judge: scores the teacher's and the student's answer.

    scored = judge(answered, config, roles, random_seed)

Scores are 1 to 10. Pairwise scores are asked in both orders and averaged, which cancels a bias for the first answer.
The difficulty measure writes `difficulty` (curriculum/measures). `repeat_mfd` is an MFD under any measure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa
import ray.data

from tapir_ray.config import Config, Judge, Sampling
from tapir_ray.data import schemas
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import CUT_OFF, REFUSED, Reply
from tapir_ray.llm.prompts import Prompts
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.scores_json import Scores, scores_format
from tapir_ray.transforms.verdict import parse_scores
from tapir_ray.transforms.verifiers import Verified, Verifier, load_verifiers, verify

Parsed = TypeVar("Parsed")

UNPARSEABLE = "unparseable_scores"
MOST_REASONS = 2_000
"""Characters of a judge's reply that are kept for the teacher."""
RETRY_TEMPERATURE = 0.7
"""Lowest temperature of a repeated question: at 0 an endpoint would repeat its reply whatever the seed."""


@dataclass(frozen=True)
class Judging:
    """One judging of a row."""

    teacher_score: float
    student_score: float
    position_gap: float | None
    """Absolute difference of the MFDs of the two orders; None if only one was asked."""
    texts: tuple[str, ...]
    """Replies that the scores were read from."""


@dataclass(frozen=True)
class Verdict:
    """Scores of one reply of the judge, and its text."""

    scores: tuple[float, ...]
    text: str


class NotJudged(Exception):
    """Raised if the judge gives no scores; `status` and `reason` are for the row."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


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

    prompts: Prompts
    settings: Judge
    random_seed: int
    verifiers: Mapping[str, Verifier] = field(default_factory=dict)
    keeps_reasons: bool = False
    """Whether `judge_reasons` gets the judge's first reply."""

    @classmethod
    def of(cls, config: Config, random_seed: int) -> JudgeRow:
        """Returns the AskRow of a config. Raises InputError for a verifier that cannot be found."""
        verifiers, keeps = load_verifiers(config.judge.verifiers), config.expand.prompt == "feedback"
        return cls(Prompts(config.prompts.dir), config.judge, random_seed, verifiers, keeps)

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != schemas.OK or row["response"] is None:
            return row
        row_id, response, answer = row["instruction_id"], row["response"], row.get("student_response") or ""
        instruction = schemas.text_of(row["messages"])
        lengths = {"response_chars": len(response), "student_response_chars": len(answer)}
        if (verified := verify(self.verifiers, row, response, answer)) is not None:
            return {**row, **lengths, **await self._verified(clients["judge"], row, verified)}
        judgings = [self.judging(clients["judge"], instruction, response, answer, row_id, "first")]
        chosen = self._in_share(row_id, "repeat", self.settings.repeat_share)
        if chosen and self.settings.repeated_at(clients["judge"].target.endpoint) > 0.0:
            judgings.append(self.judging(clients["judge"], instruction, response, answer, row_id, "repeat"))
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
        instruction, row_id = schemas.text_of(row["messages"]), row["instruction_id"]
        found: Row = {"scored_by": verified.verifier}
        try:
            for whose in [whose for whose, score in scores.items() if score is None]:
                seed = (row_id, str(self.random_seed), "unverified", whose)
                scores[whose] = (await self._ask_one(client, instruction, answers[whose], seed, 0.0)).scores[0]
                found["scored_by"] = f"{verified.verifier}, {schemas.JUDGE}"
        except NotJudged as error:
            return {"status": error.status, "reason": error.reason}
        if verified.complete and self._in_share(row_id, "verified", self.settings.verified_share):
            try:
                judged = await self.judging(
                    client, instruction, answers["teacher"], answers["student"], row_id, "verified"
                )
                found["judged_mfd"] = judged.teacher_score - judged.student_score
            except NotJudged as error:
                # The scores stand without the judge, unless the budget ended: then the row is asked again.
                if error.reason == schemas.BUDGET_USED_UP:
                    return {"status": error.status, "reason": error.reason}
        return {**found, "teacher_score": scores["teacher"], "student_score": scores["student"]}

    def _in_share(self, row_id: str, salt: str, share: float) -> bool:
        return share_of(schemas.order_key(row_id, self.random_seed, salt)) < share

    async def judging(
        self, client: Client, instruction: str, response: str, answer: str, row_id: str, judging: str
    ) -> Judging:
        """Returns one judging of a row, the `first` or the `repeat`. Raises NotJudged."""
        seed = (row_id, str(self.random_seed), judging)
        lowest = self.settings.repeat_temperature if judging == "repeat" else 0.0
        if self.settings.mode == "pointwise":
            teacher, student = await together(
                self._ask_one(client, instruction, response, (*seed, "teacher"), lowest),
                self._ask_one(client, instruction, answer, (*seed, "student"), lowest),
            )
            return Judging(teacher.scores[0], student.scores[0], None, (teacher.text, student.text))
        orders = [(response, answer), (answer, response)] if self.settings.both_orders else [(response, answer)]
        prompts = [
            self.prompts.render("judge_pairwise", instruction=instruction, answer_1=one, answer_2=two)
            for one, two in orders
        ]
        verdicts = await together(
            *(
                ask_verdict(client, prompt, 2, self.settings, (*seed, str(order)), lowest)
                for order, prompt in enumerate(prompts)
            )
        )
        texts = tuple(verdict.text for verdict in verdicts)
        (teacher_1, student_1), *swapped = (verdict.scores for verdict in verdicts)
        if not swapped:
            return Judging(teacher_1, student_1, None, texts)
        student_2, teacher_2 = swapped[0]
        # In the swapped prompt the student's answer is the first, so the scores come in the other order.
        gap = abs((teacher_1 - student_1) - (teacher_2 - student_2))
        return Judging((teacher_1 + teacher_2) / 2, (student_1 + student_2) / 2, gap, texts)

    async def _ask_one(
        self, client: Client, instruction: str, answer: str, seed: tuple[str, ...], lowest: float
    ) -> Verdict:
        prompt = self.prompts.render("judge_pointwise", instruction=instruction, answer=answer)
        return await ask_verdict(client, prompt, 1, self.settings, seed, lowest)


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """Returns the results of all calls; raises the first error once every call has ended."""
    # `gather` alone would raise at once and leave requests running, whose usage would be counted too late.
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def score_answer(
    client: Client, prompts: Prompts, settings: Judge, instruction: str, answer: str, seed: tuple[str, ...]
) -> float:
    """Returns the judge's score of one answer, 1 to 10. Raises NotJudged."""
    prompt = prompts.render("judge_pointwise", instruction=instruction, answer=answer)
    return (await ask_scores(client, prompt, 1, settings, seed))[0]


async def ask_scores(
    client: Client, prompt: str, count: int, settings: Judge, seed: tuple[str, ...]
) -> tuple[float, ...]:
    """Returns `count` scores for a rendered prompt, as `ask_verdict` does. Raises NotJudged."""
    return (await ask_verdict(client, prompt, count, settings, seed)).scores


async def ask_verdict(
    client: Client, prompt: str, count: int, settings: Judge, seed: tuple[str, ...], lowest: float = 0.0
) -> Verdict:
    """Returns `count` scores for a rendered prompt, asked at a temperature of at least `lowest`. Raises NotJudged.

    After a reply without scores, or a cut-off reply, the prompt is asked again at a temperature of at least
    RETRY_TEMPERATURE.
    """

    async def ask(attempt: int) -> Reply:
        return await client.chat(
            [{"role": "user", "content": prompt}],
            sampling=sampling_of(client, attempt, lowest),
            seed=seed_of(*seed, str(attempt)),
            kind="judge",
            response_format=None if settings.structured == "off" else scores_format(count),
            or_plain=settings.structured == "auto",
        )

    def parse(reply: Reply) -> Scores | None:
        return parse_scores(reply.text or "", count)

    scores, text = await ask_until_parsed(client, ask, parse, settings.parse_attempts, UNPARSEABLE)
    return Verdict(scores, text)


async def ask_until_parsed(
    client: Client,
    ask: Callable[[int], Awaitable[Reply]],
    parse: Callable[[Reply], Parsed | None],
    attempts: int,
    unparsed: str,
) -> tuple[Parsed, str]:
    """Returns (what `parse` finds in the judge's reply, its text), asking up to `attempts` times.

    `ask` sends the request of an attempt, counted from 0. Raises NotJudged with the reason `unparsed` if no reply could
    be read, and at once for a refusal or a failed request.
    """
    reason = unparsed
    for attempt in range(attempts):
        reply = await ask(attempt)
        if reply.status == schemas.FAILED or reply.reason == REFUSED:
            raise NotJudged(reply.status, f"judge_{reply.reason}" if reply.reason == REFUSED else str(reply.reason))
        # A cut-off reply may end in the middle of a score: `Score: 1` could have become a 10.
        parsed = parse(reply) if reply.status == schemas.OK else None
        if parsed is not None:
            return parsed, reply.text or ""
        # Else the response cache would serve the same useless reply to the next attempt of the run.
        client.reject(reply)
        reason = f"{unparsed}: {CUT_OFF}" if reply.reason == CUT_OFF else unparsed
    raise NotJudged(schemas.FAILED, reason)


def sampling_of(client: Client, attempt: int, lowest: float = 0.0) -> Sampling:
    """Returns the endpoint's sampling with a temperature of at least `lowest`; after attempt 0 also of at least
    RETRY_TEMPERATURE."""
    own = client.target.endpoint.sampling
    temperature = max(own.temperature, lowest, RETRY_TEMPERATURE if attempt else 0.0)
    return own.model_copy(update={"temperature": temperature})


def seed_of(*parts: str) -> int:
    """Returns the seed of a request, 0 ≤ seed < 2³¹: a hash of its ids and attempt."""
    return int(schemas.order_key(parts[0], 0, *parts[1:])[:8], 16) >> 1


def share_of(key: str) -> float:
    """Returns a hash key as a number in [0, 1): a share p of all keys is below p."""
    # 13 hex digits are 52 bits, which a float holds exactly.
    return int(key[:13], 16) / 16**13
