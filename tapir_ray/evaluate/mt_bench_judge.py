"""Judge of MT-Bench: one request for each turn of an item, and the rating in its reply.

rating_of("Mostly right. Rating: [[7]]")     # 7.0
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tapir_ray.config import Config, Judge
from tapir_ray.data.schemas import BUDGET_USED_UP, JUDGE, OK
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.judge_request import RETRY_TEMPERATURE, NotJudged, ask_until_parsed, seed_of

TURNS = (1, 2)
UNPARSED = "unparsed_rating"
"""Reason of an item with a turn whose rating could not be read; the turn follows."""
LOWEST, HIGHEST = 1.0, 10.0
_RATINGS = (re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]"), re.compile(r"\[\s*(\d+(?:\.\d+)?)\s*\]"))
"""Forms of a rating, in the order in which they are looked for."""


def rating_of(text: str) -> float | None:
    """Returns the rating of a reply: the number of the first `[[n]]`, else of the first `[n]`.

    None if there is neither, or if the number is not from 1 to 10.
    """
    for form in _RATINGS:
        if (found := form.search(text)) is not None:
            rating = float(found[1])
            return rating if LOWEST <= rating <= HIGHEST else None
    return None


@dataclass(frozen=True)
class GradeTurns:
    """Asks the judge for the rating of each turn of an answered item (an AskRow).

    A reply without a rating is asked for again, up to `judge.parse_attempts` times. If a turn has none then, the item
    fails as `unparsed_rating: turn N`, and keeps the rating of its other turn.
    """

    prompts: Prompts
    settings: Judge

    @classmethod
    def of(cls, config: Config) -> GradeTurns:
        """Returns the AskRow of a config. Raises InputError for a folder of prompts that cannot be used."""
        return cls(Prompts(config.prompts.dir), config.judge)

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != OK:
            return row
        questions = [turn["content"] for turn in row["messages"] if turn["role"] == "user"]
        answers = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
        answers.append(row["student_response"] or "")
        graded = await asyncio.gather(
            *(
                self._grade(
                    clients["judge"],
                    self.prompt(turn, questions, answers, row["references"]),
                    (row["instruction_id"], "mt_bench", str(turn)),
                )
                for turn in TURNS
            ),
            return_exceptions=True,
        )
        scored: Row = {**row, "scored_by": JUDGE, "student_response_chars": len(answers[-1])}
        refused: list[tuple[int, NotJudged]] = []
        for turn, one in zip(TURNS, graded, strict=True):
            if isinstance(one, NotJudged):
                refused.append((turn, one))
            elif isinstance(one, BaseException):
                raise one
            else:
                scored[f"turn_{turn}_score"], scored[f"turn_{turn}_judgement"] = one
        if refused:
            return {**scored, **_not_judged(refused)}
        return {**scored, "student_score": fmean(scored[f"turn_{turn}_score"] for turn in TURNS)}

    def prompt(
        self, turn: int, questions: Sequence[str], answers: Sequence[str], references: Sequence[str] | None
    ) -> str:
        """Returns the request for the rating of a turn, with all turns up to it."""
        shown: dict[str, str | None] = {}
        for number in range(1, turn + 1):
            shown[f"question_{number}"] = questions[number - 1]
            shown[f"reference_{number}"] = references[number - 1] if references else None
            shown[f"answer_{number}"] = answers[number - 1]
        return self.prompts.render(f"mt_bench_turn_{turn}", **shown)

    async def _grade(self, client: Client, prompt: str, seed: tuple[str, ...]) -> tuple[float, str]:
        async def ask(attempt: int) -> Reply:
            # The protocol grades at temperature 0; at 0 an endpoint would repeat its reply whatever the seed.
            temperature = RETRY_TEMPERATURE if attempt else 0.0
            return await client.chat(
                [{"role": "user", "content": prompt}],
                sampling=client.target.endpoint.sampling.model_copy(update={"temperature": temperature}),
                seed=seed_of(*seed, str(attempt)),
                kind="judge",
            )

        def parse(reply: Reply) -> float | None:
            return rating_of(reply.text or "")

        return await ask_until_parsed(client, ask, parse, self.settings.parse_attempts, UNPARSED)


def _not_judged(refused: Sequence[tuple[int, NotJudged]]) -> Row:
    """Returns status and reason of an item with turns that the judge gave no rating."""
    for _, error in refused:
        # Such an item is not written, and asked again as a whole; its other rating is in the response cache.
        if error.reason == BUDGET_USED_UP:
            return {"status": error.status, "reason": error.reason}
    turns = " and ".join(str(turn) for turn, _ in refused)
    _, first = refused[0]
    return {"status": first.status, "reason": f"{first.reason}: turn {turns}"}
