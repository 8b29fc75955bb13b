"""Revise: the teacher finds the first faulty step of a student's explanation and corrects it from there (CLEAR).

    annotated = revise(chosen, config, roles, styles)          # rows of schemas.ANNOTATED

ELAD (arXiv 2402.13098). The prompt (`llm/prompts/revise.jinja`) shows the steps numbered, the reply names one. With
`elad.revise: rewrite` the teacher answers the question in the style of its task instead, without seeing the steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import ray.data

from tapir_ray.config import Config
from tapir_ray.data import schemas
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import REFUSED, Reply
from tapir_ray.llm.prompts import Prompts
from tapir_ray.llm.roles import Roles
from tapir_ray.transforms.explanation import Explanation, parse_revision, split_steps
from tapir_ray.transforms.filters import AFTER, first_reason, row_filters
from tapir_ray.transforms.filters.base import RowFilter
from tapir_ray.transforms.judge_request import sampling_of, seed_of
from tapir_ray.transforms.respond import styled_messages

UNREADABLE = "unreadable_revision"


def revise(rows: ray.data.Dataset, config: Config, roles: Roles, styles: Mapping[str, str]) -> ray.data.Dataset:
    """Returns `rows` as schemas.ANNOTATED; the teacher annotates every ok row, other rows pass unchanged.

    A row without a usable annotation is filtered or failed with the reason of its reply (`cut_off`, `refused`, an
    error), or failed as `unreadable_revision` after `elad.attempts` requests, with the end of the last reply.
    """
    return roles.ask(rows, ReviseRow(Prompts(config.prompts.dir), config, dict(styles)), schemas.ANNOTATED)


@dataclass(frozen=True)
class ReviseRow:
    """The AskRow of `revise`."""

    prompts: Prompts
    config: Config
    styles: dict[str, str]

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != schemas.OK:
            return row
        row = {**row, "response": None, "reasoning": None, "input_tokens": 0, "output_tokens": 0}
        revises = self.config.elad.revise == "revise"
        annotated = await (self._revised if revises else self._rewritten)(clients["teacher"], row)
        if annotated["status"] != schemas.OK:
            return annotated
        reason = first_reason(annotated, self._filters)
        return annotated if reason is None else {**annotated, "status": schemas.FILTERED, "reason": reason}

    async def _revised(self, teacher: Client, row: Row) -> Row:
        explanation = split_steps(row["student_response"] or "", self.config.elad.step_pattern)
        messages = [{"role": "user", "content": self.prompt(row, explanation)}]
        text = ""
        for attempt in range(self.config.elad.attempts):
            seed, sampling = seed_of(row["instruction_id"], "revise", str(attempt)), sampling_of(teacher, attempt)
            reply = await teacher.chat(messages, sampling=sampling, seed=seed, kind="annotate")
            row = _with_tokens(row, reply)
            if reply.status == schemas.FAILED or reply.reason == REFUSED:
                return {**row, "status": reply.status, "reason": reply.reason}
            text = reply.text or ""
            found = parse_revision(text, explanation) if reply.status == schemas.OK else None
            if found is not None:
                written = {"verdict": found.verdict, "first_faulty": found.first_faulty, "revision": found.revised}
                row |= {**written, "response": found.text, "teacher_model": reply.model, "style": None}
                sampled = json.dumps({**sampling.model_dump(), "seed": seed}, sort_keys=True)
                return row | {"prompt_hash": schemas.prompt_hash(messages), "sampling": sampled}
            teacher.reject(reply)
        return {**row, "status": schemas.FAILED, "reason": f"{UNREADABLE}: {' '.join(text.split())[-100:]}"}

    async def _rewritten(self, teacher: Client, row: Row) -> Row:
        style = self.styles.get(row["task"] or "")
        messages = row["messages"] if style is None else styled_messages(self.prompts, row, style)
        seed, sampling = seed_of(row["instruction_id"], "respond", "0"), teacher.target.endpoint.sampling
        reply = await teacher.chat(messages, seed=seed, kind="annotate")
        row = _with_tokens(row, reply)
        if reply.status != schemas.OK:
            return {**row, "style": style, "status": reply.status, "reason": reply.reason}
        sampled = json.dumps({**sampling.model_dump(), "seed": seed}, sort_keys=True)
        row |= {"response": (reply.text or "").strip(), "reasoning": reply.reasoning, "teacher_model": reply.model}
        return row | {"style": style, "prompt_hash": schemas.prompt_hash(messages), "sampling": sampled}

    def prompt(self, row: Row, explanation: Explanation) -> str:
        """Returns the text that asks for a revision."""
        return self.prompts.render("revise", instruction=schemas.text_of(row["messages"]), steps=explanation.steps)

    @cached_property
    def _filters(self) -> list[RowFilter]:
        return row_filters(self.config, AFTER)


def _with_tokens(row: Row, reply: Reply) -> Row:
    return {
        **row,
        "input_tokens": row["input_tokens"] + reply.input_tokens,
        "output_tokens": row["output_tokens"] + reply.output_tokens,
    }
