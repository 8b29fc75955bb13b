"""Client that sends no request: it answers from a cache of replies alone.

client = Recorded(target, f"{run.uri}/cache")
reply = await client.chat(messages, kind="judge", seed=7)    # failed, as `not_recorded`, if it is not there
"""

from __future__ import annotations

from typing import Any

from tapir_ray.data.schemas import FAILED
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.target import Target

NOT_RECORDED = "not_recorded"


class Recorded(Client):
    """Client of a run that is over. It counts nothing and never writes."""

    def __init__(self, target: Target, cache_dir: str) -> None:
        """Reads the cache in the folder or URI. Raises InputError as `Cache` does."""
        super().__init__(target, Meter(None), cache=Cache(cache_dir))

    async def _ask(self, body: dict[str, Any], kind: str) -> Reply:
        return Reply(None, status=FAILED, reason=NOT_RECORDED)

    async def generate(self, body: dict[str, Any]) -> Any:
        raise AssertionError("a recorded client sends no request")
