"""The judge's scores of the teacher's and the student's answer, and their difference, the MFD.

    scored = judge(answered, config, roles, random_seed)

MFD(x) = J(x, teacher) − J(x, student) on a scale of 1 to 10 (our reading of TAPIR, arXiv 2405.13448).
Pairwise scores are asked for in both orders and averaged, which cancels a bias for the first answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import ray.data

from tapir_ray import records
from tapir_ray.config import Config, Judge, Sampling
from tapir_ray.llm.asker import Row
from tapir_ray.llm.openai import Client
from tapir_ray.llm.prompts import Prompts
from tapir_ray.llm.reply import REFUSED
from tapir_ray.llm.roles import Roles

UNPARSEABLE = "unparseable_scores"
LOWEST, HIGHEST = 1.0, 10.0
RETRY_TEMPERATURE = 0.7
"""Lowest temperature of a question asked again: at 0 an endpoint would repeat its reply whatever the seed."""

_LINE = re.compile(r"^[\s*_#>`\-]*scores?[\s*_`]*[:=](?P<rest>.*)$", re.IGNORECASE)
_NUMBER = r"(\d+(?:\.\d+)?)(?:\s*(?:/|out of)\s*10(?:\.0+)?(?!\d))?"
_MARKS = str.maketrans({mark: " " for mark in "*_`<>[](){}\"'"})


@dataclass(frozen=True)
class Judging:
    """One judging of a row: both scores, and how far apart the MFDs of the two orders are, where both were asked."""

    teacher_score: float
    student_score: float
    position_gap: float | None


class NotJudged(Exception):
    """No scores could be had; `status` and `reason` are the row's."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def judge(rows: ray.data.Dataset, config: Config, roles: Roles, random_seed: int) -> ray.data.Dataset:
    """`rows` as records.SCORED with scores, mfd, position_gap, repeat_mfd and the lengths of both answers.

    Rows that are not ok, or have no response to compare with, pass as they are. `judge.repeat_share` of the rows,
    chosen by a hash of their id, are judged a second time with other seeds. A judge whose replies hold no scores in
    `judge.parse_attempts` attempts fails the row (`unparseable_scores`).
    """
    return roles.ask(rows, JudgeRow(Prompts(config.prompts.dir), config.judge, random_seed), records.SCORED)


@dataclass(frozen=True)
class JudgeRow:
    """The AskRow of `judge`."""

    prompts: Prompts
    settings: Judge
    random_seed: int

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != records.OK or row["response"] is None:
            return row
        row_id, response, answer = row["instruction_id"], row["response"], row.get("student_response") or ""
        instruction = records.text_of(row["messages"])
        lengths = {"response_chars": len(response), "student_response_chars": len(answer)}
        judgings = [self._judge(clients["judge"], instruction, response, answer, row_id, "first")]
        if share_of(records.order_key(row_id, self.random_seed, "repeat")) < self.settings.repeat_share:
            judgings.append(self._judge(clients["judge"], instruction, response, answer, row_id, "repeat"))
        judged = await asyncio.gather(*judgings, return_exceptions=True)
        first, *repeat = judged
        for one in judged:
            # What the budget cut off in its midst is asked again as a whole: what did come is in the response cache.
            if isinstance(one, NotJudged) and one.reason == records.BUDGET_USED_UP:
                first = one
        if isinstance(first, NotJudged):
            return {**row, **lengths, "status": first.status, "reason": first.reason}
        if isinstance(first, BaseException):
            raise first
        scores: dict[str, Any] = {
            "teacher_score": first.teacher_score,
            "student_score": first.student_score,
            "mfd": first.teacher_score - first.student_score,
            "position_gap": first.position_gap,
        }
        if repeat and isinstance(repeat[0], Judging):
            scores["repeat_mfd"] = repeat[0].teacher_score - repeat[0].student_score
        return {**row, **lengths, **scores}

    async def _judge(
        self, client: Client, instruction: str, response: str, answer: str, row_id: str, judging: str
    ) -> Judging:
        seed = (row_id, str(self.random_seed), judging)
        if self.settings.mode == "pointwise":
            teacher, student = await together(
                score_answer(client, self.prompts, self.settings, instruction, response, (*seed, "teacher")),
                score_answer(client, self.prompts, self.settings, instruction, answer, (*seed, "student")),
            )
            return Judging(teacher, student, None)
        orders = [(response, answer), (answer, response)] if self.settings.both_orders else [(response, answer)]
        prompts = [
            self.prompts.render("judge_pairwise", instruction=instruction, answer_1=one, answer_2=two)
            for one, two in orders
        ]
        replies = await together(
            *(ask_scores(client, prompt, 2, self.settings, (*seed, str(order))) for order, prompt in enumerate(prompts))
        )
        (teacher, student), *swapped = replies
        if not swapped:
            return Judging(teacher, student, None)
        student_2, teacher_2 = swapped[0]
        gap = abs((teacher - student) - (teacher_2 - student_2))
        return Judging((teacher + teacher_2) / 2, (student + student_2) / 2, gap)


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """The results of all calls; raises the first error once every call has ended.

    A request must not outlive its row: what it used would be counted too late.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def score_answer(
    client: Client, prompts: Prompts, settings: Judge, instruction: str, answer: str, seed: tuple[str, ...]
) -> float:
    """The judge's score of one answer, 1 to 10. Raises NotJudged."""
    prompt = prompts.render("judge_pointwise", instruction=instruction, answer=answer)
    return (await ask_scores(client, prompt, 1, settings, seed))[0]


async def ask_scores(
    client: Client, prompt: str, count: int, settings: Judge, seed: tuple[str, ...]
) -> tuple[float, ...]:
    """`count` scores for a rendered prompt; an unparseable reply is asked again, less greedily. Raises NotJudged."""
    for attempt in range(settings.parse_attempts):
        reply = await client.chat(
            [{"role": "user", "content": prompt}],
            sampling=sampling_of(client, attempt),
            seed=seed_of(*seed, str(attempt)),
            kind="judge",
        )
        if reply.status == records.FAILED or reply.reason == REFUSED:
            raise NotJudged(reply.status, f"judge_{reply.reason}" if reply.reason == REFUSED else str(reply.reason))
        scores = parse_scores(reply.text or "", count)
        if scores is not None:
            return scores
        client.reject(reply)
    raise NotJudged(records.FAILED, UNPARSEABLE)


def parse_scores(text: str, count: int) -> tuple[float, ...] | None:
    """The `count` scores of the last line of the form `Scores: a b`; None where there is none or one is outside 1..10.

    Marks around words, a comma or `and` between numbers, `/10` and `out of 10` are understood; a line with more or
    fewer numbers is not.
    """
    pattern = re.compile(
        r"\s*" + r"(?:\s*(?:,|;|\||&|\band\b)\s*|\s+)".join([_NUMBER] * count) + r"(?P<after>.*)$", re.A
    )
    for line in reversed(text.splitlines()):
        labelled = _LINE.match(line)
        found = labelled and pattern.match(labelled["rest"].translate(_MARKS))
        if not found or re.search(r"\d", found["after"]):
            continue
        scores = tuple(float(number) for number in found.groups()[:count])
        return scores if all(LOWEST <= score <= HIGHEST for score in scores) else None
    return None


def sampling_of(client: Client, attempt: int) -> Sampling:
    """The endpoint's own sampling for the first attempt (0), later ones at RETRY_TEMPERATURE or above."""
    own = client.target.endpoint.sampling
    return own if attempt == 0 else own.model_copy(update={"temperature": max(own.temperature, RETRY_TEMPERATURE)})


def seed_of(*parts: str) -> int:
    """A request's seed, 0 ≤ seed < 2³¹: a hash of the ids and the attempt it belongs to."""
    return int(records.order_key(parts[0], 0, *parts[1:])[:8], 16) >> 1


def share_of(key: str) -> float:
    """A hash key as a number in [0, 1): rows below p are a p-th share of all."""
    return int(key[:13], 16) / 16**13
