"""Client that sends no request: it answers from a cache of replies alone.

client = Recorded(target, f"{run.uri}/cache")
reply = await client.chat(messages, kind="judge", seed=7)    # failed, as `not_recorded`, if it is not there
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapir_ray.config import Sampling
from tapir_ray.data.schemas import FAILED, Message
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.request import request_body, request_key
from tapir_ray.llm.client.target import Target

NOT_RECORDED = "not_recorded"


class Recorded(Client):
    """Client of a run that is over. It counts nothing and never writes."""

    def __init__(self, target: Target, cache_dir: str) -> None:
        """Reads the cache in the folder or URI. Raises InputError as `Cache` does."""
        super().__init__(target, Meter(None))
        self._recorded = Cache(cache_dir)

    async def _chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None,
        seed: int | None,
        kind: str,
        response_format: dict[str, Any] | None = None,
        top_logprobs: int | None = None,
    ) -> Reply:
        endpoint = self.target.endpoint
        body = request_body(endpoint, messages, sampling or endpoint.sampling, seed, response_format, top_logprobs)
        reply, _ = await self._recorded.answer(request_key(self.target.scope, body), _not_recorded)
        return reply

    async def generate(self, body: dict[str, Any]) -> Any:
        raise AssertionError("a recorded client sends no request")


async def _not_recorded() -> Reply:
    return Reply(None, status=FAILED, reason=NOT_RECORDED)
