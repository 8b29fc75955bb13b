"""Judge of AlpacaEval: one request for each item, through the run's limits, cache and budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tapir_ray.config import Config
from tapir_ray.data.schemas import FAILED, JUDGE, OK
from tapir_ray.evaluate.alpaca_eval_annotations import DRAW
from tapir_ray.evaluate.alpaca_eval_evaluator import Evaluator, load_evaluator, switched
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import Reply
from tapir_ray.transforms.judge_request import NotJudged, ask_until_parsed, sampling_of, seed_of

UNPARSED = "unparsed_preference"
NO_LOGPROBS = "no_logprobs: the judge gives no probabilities of its tokens; set evaluate.alpaca_eval.logprobs false"


@dataclass(frozen=True)
class Prefer:
    """Asks the judge which answer is better, the baseline's or the student's (an AskRow).

    The order in which it sees them is the package's, by a hash of the instruction. A verdict that cannot be read is
    asked for again, up to `attempts` times; then the item fails as `unparsed_preference`.
    """

    evaluator: Evaluator
    logprobs: bool
    attempts: int

    @classmethod
    def of(cls, config: Config) -> Prefer:
        """Returns the AskRow of a config. Raises InputError for an evaluator that cannot be used."""
        settings = config.evaluate.alpaca_eval
        return cls(load_evaluator(settings.evaluator), settings.logprobs, config.judge.parse_attempts)

    async def __call__(self, clients: Mapping[str, Client], row: Row) -> Row:
        if row["status"] != OK:
            return row
        instruction, answer = row["messages"][0]["content"], row["student_response"] or ""
        lengths = {"response_chars": len(row["response"]), "student_response_chars": len(answer)}
        if answer == row["response"]:
            return {**row, **lengths, **_scored(DRAW)}
        first = switched(instruction)
        outputs = (answer, row["response"]) if first else (row["response"], answer)
        try:
            preference, verdict = await self._ask(clients["judge"], row["instruction_id"], instruction, *outputs)
        except NotJudged as error:
            return {**row, **lengths, "shown_first": first, "status": error.status, "reason": error.reason}
        scored = _scored(3.0 - preference if first else preference)
        return {**row, **lengths, **scored, "scored_by": JUDGE, "shown_first": first, "verdict": verdict}

    async def _ask(self, client: Client, row_id: str, instruction: str, *outputs: str) -> tuple[float, str]:
        messages, asked = self.evaluator.messages(instruction, *outputs), self.evaluator

        async def ask(attempt: int) -> Reply:
            sampling = sampling_of(client, attempt)
            if self.logprobs:
                update = {"temperature": asked.temperature, "max_tokens": asked.max_tokens}
                sampling = sampling.model_copy(update=update)
            reply = await client.chat(
                messages,
                sampling=sampling,
                seed=seed_of(row_id, asked.name, str(attempt)),
                kind="judge",
                top_logprobs=asked.top_logprobs if self.logprobs else None,
            )
            if self.logprobs and reply.text and reply.logprobs is None:
                client.reject(reply)
                raise NotJudged(FAILED, NO_LOGPROBS)
            return reply

        def parse(reply: Reply) -> float | None:
            if self.logprobs:
                return asked.preference(reply.logprobs or {})
            return asked.preference_in(reply.text or "")

        return await ask_until_parsed(client, ask, parse, self.attempts, UNPARSED)


def _scored(preference: float) -> Row:
    return {"preference": preference, "student_score": 100 * (preference - 1)}
