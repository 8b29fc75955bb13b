"""Client for the OpenAI protocol.

client = OpenAIClient(Target("teacher", endpoint, base_url, key), meter, InFlight(64))
reply = await client.chat([{"role": "user", "content": "…"}], seed=7, kind="respond")
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import openai

from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.failures import BadReply
from tapir_ray.llm.client.target import Target


class OpenAIClient(Client):
    """Client for the chat requests of one role to an HTTP endpoint."""

    def __init__(self, target: Target, meter: Meter, *shared: Any, **named: Any) -> None:
        """Takes `shared` and `named` as in Client."""
        super().__init__(target, meter, *shared, **named)
        self._openai = connect(target)
        self._headers = headers(target)

    async def generate(self, body: dict[str, Any]) -> Any:
        """Returns the JSON of a chat completion. Raises BadReply for a body that is not JSON, and openai's errors."""
        options: Any = {"headers": self._headers}
        # As text: parsing into the typed models of `openai` takes as long as all the rest of a request.
        text = await self._openai.post("/chat/completions", cast_to=str, body=body, options=options)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            found = "a stream" if text.lstrip().startswith("data:") else "no JSON"
            raise BadReply(f"the endpoint answers with {found}: {text[:200]!r}") from None

    async def close(self) -> None:
        """Closes the connections."""
        await self._openai.close()


def connect(target: Target) -> openai.AsyncOpenAI:
    """Returns a client of the target's endpoint on the aiohttp transport, without retries.

    Proxies from the environment are not used for loopback.
    """
    # aiohttp: the default transport reaches a fifth of the requests per second at 64 in flight. No retries, because
    # `Client` repeats requests itself, with a lease for each.
    loopback = urlsplit(target.base_url or "").hostname in ("127.0.0.1", "localhost", "::1")
    return openai.AsyncOpenAI(
        api_key="-" if target.key is None else target.key.reveal(),
        base_url=target.base_url,
        timeout=target.endpoint.timeout_s,
        max_retries=0,
        http_client=openai.DefaultAioHttpClient(trust_env=not loopback),
    )


def headers(target: Target) -> dict[str, Any]:
    """Returns the `extra_headers` of a request: without a key, no Authorization header is sent."""
    return {"Authorization": openai.Omit()} if target.key is None else {}
