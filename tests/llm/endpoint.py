"""An OpenAI-compatible endpoint for tests, over real HTTP on loopback; a function gives its answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[dict[str, Any], int], "str | Fault | Choice"]
"""A function of (request body, number of earlier requests with the same body)."""


@dataclass(frozen=True)
class Fault:
    """An HTTP error in place of a reply."""

    status: int
    message: str = "no"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None


@dataclass(frozen=True)
class Choice:
    """A reply with every field that can vary."""

    content: str | None
    finish_reason: str = "stop"
    message: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    delay_s: float = 0.0


@dataclass
class Endpoint:
    """A running endpoint and the requests it has seen."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0


@contextmanager
def running(answer: Answer, latency_s: float = 0.0) -> Iterator[Endpoint]:
    """Yields the endpoint, served from a thread of this process until the block ends."""
    seen = Endpoint()
    before: dict[str, int] = {}

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        seen.requests.append(body)
        seen.headers.append(dict(request.headers))
        seen.times.append(time.monotonic())
        key = str(sorted(body.items(), key=str))
        attempt = before.get(key, 0)
        before[key] = attempt + 1
        seen.in_flight += 1
        seen.most_in_flight = max(seen.most_in_flight, seen.in_flight)
        try:
            reply = answer(body, attempt)
            await asyncio.sleep(latency_s + (reply.delay_s if isinstance(reply, Choice) else 0.0))
        finally:
            seen.in_flight -= 1
        if isinstance(reply, Fault):
            if reply.body is not None:
                return web.Response(status=reply.status, text=reply.body, headers=reply.headers)
            error = {"error": {"message": reply.message, "code": reply.code}}
            return web.json_response(error, status=reply.status, headers=reply.headers)
        choice = Choice(reply) if isinstance(reply, str) else reply
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        output = len((choice.content or "").split())
        return web.json_response(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": f"{body['model']}-2026",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": choice.finish_reason,
                        "message": {"role": "assistant", "content": choice.content, **choice.message},
                        **choice.choice,
                    }
                ],
                "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": 0, **choice.usage},
            }
        )

    async def models(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") == "Bearer wrong":
            return web.json_response({"error": {"message": "bad key"}}, status=401)
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    application = web.Application()
    application.router.add_post("/v1/chat/completions", chat)
    application.router.add_get("/v1/models", models)
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def serve() -> web.AppRunner:
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        seen.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        started.set()
        return runner

    runner = None

    def run() -> None:
        nonlocal runner
        runner = loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield seen
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
