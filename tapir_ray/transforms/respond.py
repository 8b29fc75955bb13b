"""Respond: the teacher answers in the style of the task. TAPIR (arXiv 2405.13448) names two styles; the rest are ours.

    answered = respond(rows, config, roles, styles)                                    # generated rows
    filled = respond(rows, config, roles, styles, schema=schemas.INSTRUCTIONS)         # seed data without responses
    rewritten = respond(rows, config, roles, styles, schema, draft="other_response")   # existing answers

`rewrite.mode: combined` asks once, with the style in the system message. `second_pass` asks for an answer and then for
a rewritten version of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa
import ray.data

from tapir_ray.config import Config
from tapir_ray.data import schemas
from tapir_ray.data.schemas import Message
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.prompts import Prompts
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.filters import AFTER, SCORED, first_reason, row_filters
from tapir_ray.transforms.filters.base import RowFilter
from tapir_ray.transforms.judge import score_answer
from tapir_ray.transforms.judge_question import Questions
from tapir_ray.transforms.judge_request import NotJudged, seed_of
from tapir_ray.transforms.verifiers import Verifier, load_verifiers, verify_one


def respond(
    rows: ray.data.Dataset,
    config: Config,
    roles: Roles,
    styles: Mapping[str, str],
    schema: pa.Schema = schemas.GENERATED_ROWS,
    draft: str | None = None,
    only: Callable[[Row], bool] | None = None,
) -> ray.data.Dataset:
    """Returns `rows` as `schema`; the teacher answers every ok row without a response, other rows pass unchanged.

    Sets response, reasoning, teacher_model (as returned), prompt_hash, sampling and style.

    - A task without an entry in `styles` is answered without a style.
    - With `only`, rows for which it returns False pass unchanged too.
    - With `draft`, the answer in that column is rewritten in the style of the task; no new answer is asked for.
    - An answer is usable if its reply is complete and no filter of answers applies (`transforms/filters`: `refused`,
      the user's functions). A row without a usable answer gets the status and reason of its first one: `cut_off`,
      `refused`, `empty` or an error.
    - Of `respond.samples` answers the one with the best judge's score is kept, with its `answer_score`. Below
      `respond.min_score` the row is filtered as `below_min_score`. An answer that a verifier grades is not judged.
    """
    return roles.ask(rows, RespondRow(Questions.of(config), config, dict(styles), draft, only), schema)


def styled_messages(prompts: Prompts, row: Row, style: str) -> list[Message]:
    """Returns the messages of a row, with the style of its task in the system message."""
    # One system message, because some chat templates refuse a second one.
    own = [message["content"] for message in row["messages"] if message["role"] == "system"]
    turns = [message for message in row["messages"] if message["role"] != "system"]
    system = "\n\n".join([prompts.render("respond", task=row["task"], style=style), *own])
    return [{"role": "system", "content": system}, *turns]


@dataclass(frozen=True)
class Answer:
    """Candidate answer: the reply, with the messages and the seed of its request."""

    reply: Reply
    messages: list[Message]
    seed: int
    score: float | None = None


@dataclass(frozen=True)
class RespondRow:
    """The AskRow of `respond`."""

    questions: Questions
    config: Config
    styles: dict[str, str]
    draft: str | None = None
    only: Callable[[Row], bool] | None = None

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != schemas.OK or row["response"] is not None:
            return row
        if self.only is not None and not self.only(row):
            return row
        settings = self.config.respond
        style = self.styles.get(row["task"] or "")
        answers = await asyncio.gather(
            *(self._answer(clients["teacher"], row, style, str(sample)) for sample in range(settings.samples))
        )
        if any(answer.reply.reason == schemas.BUDGET_USED_UP for answer in answers):
            # The row is asked again as a whole; answers that did arrive are in the response cache.
            return {**row, "style": style, "status": schemas.FAILED, "reason": schemas.BUDGET_USED_UP}
        usable = [answer for answer in answers if answer.reply.status == schemas.OK]
        if not usable:
            return {**row, "style": style, "status": answers[0].reply.status, "reason": answers[0].reply.reason}
        if settings.scores:
            try:
                usable = await self._scored(clients["judge"], row, usable)
            except NotJudged as error:
                return {**row, "style": style, "status": error.status, "reason": error.reason}
        # `max` returns the first of equal scores, so the choice is the same in every run.
        best = max(usable, key=lambda answer: answer.score or 0.0)
        answered = {
            **row,
            "response": (best.reply.text or "").strip(),
            "reasoning": best.reply.reasoning,
            "teacher_model": best.reply.model,
            "prompt_hash": schemas.prompt_hash(best.messages),
            "sampling": self._sampling(best),
            "style": style,
            "answer_score": best.score,
        }
        reason = first_reason(answered, self._filters_of_scored)
        return answered if reason is None else {**answered, "status": schemas.FILTERED, "reason": reason}

    async def _answer(self, client: Client, row: Row, style: str | None, sample: str) -> Answer:
        seed = seed_of(row["instruction_id"], "respond", sample)
        draft = row[self.draft] if self.draft is not None and style is not None else None
        second_pass = style is not None and self.config.rewrite.mode == "second_pass"
        if draft is None:
            messages = (
                row["messages"] if style is None or second_pass else styled_messages(self.questions.prompts, row, style)
            )
            reply = self._filtered(row, await client.chat(messages, seed=seed, kind="respond"), is_draft=second_pass)
            if reply.status != schemas.OK or not second_pass:
                return Answer(reply, messages, seed)
            draft = reply.text
        rewriting: list[Message] = [
            {
                "role": "user",
                "content": self.questions.prompts.render(
                    "rewrite",
                    task=row["task"],
                    style=style,
                    instruction=schemas.text_of(row["messages"]),
                    answer=draft,
                ),
            }
        ]
        return Answer(self._filtered(row, await client.chat(rewriting, seed=seed, kind="rewrite")), rewriting, seed)

    async def _scored(self, judge: Client, row: Row, answers: list[Answer]) -> list[Answer]:
        """Returns the answers that the judge could score, with their scores. Raises NotJudged if there are none."""
        results = await asyncio.gather(*(self._score(judge, row, answer) for answer in answers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, NotJudged):
                raise result
            if isinstance(result, NotJudged) and result.reason == schemas.BUDGET_USED_UP:
                raise result
        scored = [result for result in results if isinstance(result, Answer)]
        if not scored and isinstance(results[0], NotJudged):
            raise results[0]
        return scored

    async def _score(self, judge: Client, row: Row, answer: Answer) -> Answer:
        text = (answer.reply.text or "").strip()
        if (verified := verify_one(self._verifiers, row, text)) is not None:
            return replace(answer, score=verified)
        seed = (row["instruction_id"], "gate", str(answer.seed))
        score = await score_answer(judge, self.questions, self.config.judge, row, text, seed)
        return replace(answer, score=score)

    def _sampling(self, answer: Answer) -> str:
        return json.dumps({**self.config.teacher.sampling.model_dump(), "seed": answer.seed}, sort_keys=True)

    @cached_property
    def _verifiers(self) -> dict[str, Verifier]:
        return load_verifiers(self.config.judge.verifiers)

    @cached_property
    def _filters(self) -> list[RowFilter]:
        return row_filters(self.config, AFTER)

    @cached_property
    def _filters_of_scored(self) -> list[RowFilter]:
        return row_filters(self.config, SCORED)

    def _filtered(self, row: Row, reply: Reply, is_draft: bool = False) -> Reply:
        """Returns the reply, with status filtered if a filter of answers applies to it."""
        if reply.status != schemas.OK:
            return reply
        response = {"response": (reply.text or "").strip(), "reasoning": reply.reasoning, "teacher_model": reply.model}
        # A draft is not the final answer; only filters that make a rewriting pointless apply to it.
        filters = [one for one in self._filters if one.of_drafts or not is_draft]
        reason = first_reason({**row, **response}, filters)
        return reply if reason is None else replace(reply, status=schemas.FILTERED, reason=reason)
