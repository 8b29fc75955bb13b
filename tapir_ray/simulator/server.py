"""HTTP server of the simulator: the OpenAI protocol on loopback.

python -m tapir_ray.simulator --scenario tasks --port 8123
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol, TextIO

from aiohttp import web

from tapir_ray.config.data import TASKS
from tapir_ray.data.schemas import prompt_hash
from tapir_ray.data.words import piece_ends
from tapir_ray.errors import InputError
from tapir_ray.simulator.batches import Batches
from tapir_ray.simulator.faults import (
    DROPPED,
    EMPTY,
    HANG,
    NO_HELP,
    NO_SCORES,
    OVER_LIMIT,
    RATE_LIMITED_WAIT,
    REFUSAL,
    STATUS,
    TRUNCATED,
    UNPARSEABLE,
    Faults,
    Window,
)
from tapir_ray.simulator.options import Options
from tapir_ray.simulator.recorded import Recorded
from tapir_ray.simulator.requests import BadRequest, Request, read
from tapir_ray.simulator.tasks import Tasks

LARGEST_BODY = 64 * 1024**2
PARENT_CHECK_S = 0.25
UNUSUAL = {EMPTY: "", REFUSAL: NO_HELP, UNPARSEABLE: NO_SCORES}
"""Texts that replace a reply, by fault."""


class Scenario(Protocol):
    def reply(self, request: Request) -> str: ...

    def first_token(self, request: Request) -> dict[str, float] | None: ...


def scenario_of(options: Options) -> Scenario:
    """The scenario named in the options.

    Raises InputError for a file that is missing or holds no pairs, and for a `teacher_error_rate` that has no effect.
    """
    if options.scenario == TASKS:
        return Tasks(options)
    if options.teacher_error_rate:
        raise InputError("the simulator's teacher_error_rate has no effect without the scenario tasks: take it out")
    return Recorded(options)


class Server:
    """HTTP handlers of one scenario."""

    def __init__(self, options: Options) -> None:
        """Raises InputError for a host that is not loopback, and for options that the scenario cannot use."""
        if not _is_loopback(options.host):
            raise InputError(f"simulator host {options.host} is not loopback: use 127.0.0.1")
        self.options = options
        self.scenario = scenario_of(options)
        self._faults = Faults(options.error_rate, options.seed)
        self._window = Window(options.max_requests_per_minute) if options.max_requests_per_minute else None
        self._log: TextIO | None = None

    def app(self) -> web.Application:
        app = web.Application(client_max_size=LARGEST_BODY)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/v1/models/{name:.+}", self.model)
        Batches(self._of_batch, self.options.batch_s, self.options.expire_batches).add_to(app)
        app.cleanup_ctx.append(self._log_file)
        return app

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [_model(f"simulator-{self.options.scenario}")]})

    async def model(self, http: web.Request) -> web.Response:
        """Answers for any name: every model exists here."""
        return web.json_response(_model(http.match_info["name"]))

    async def chat(self, http: web.Request) -> web.Response:
        try:
            body = json.loads(await http.read())
            request = self._read(body)
        except (BadRequest, ValueError) as error:
            self._write({"kind": "invalid", "status": 400})
            return web.json_response(_error(str(error) if isinstance(error, BadRequest) else "not JSON"), status=400)
        record = {
            "kind": request.kind,
            "prompt": prompt_hash(body["messages"]),
            "seed": body.get("seed"),
            "arrived": round(time.time(), 6),
        }
        wait = self._window.admit(time.monotonic()) if self._window else 0.0
        if wait:
            return self._refuse(OVER_LIMIT, record, math.ceil(wait))
        fault = self._faults.draw(request)
        if self.options.latency_s:
            await asyncio.sleep(self.options.latency_s)
        if fault in STATUS:
            return self._refuse(fault, record, 1 if fault == RATE_LIMITED_WAIT else None)
        if fault in (DROPPED, HANG):
            self._write({**record, "status": None, "fault": fault})
            await asyncio.sleep(self.options.hang_s if fault == HANG else 0.0)
            # Closes the connection without a reply; aiohttp requires a response object all the same.
            if http.transport is not None:
                http.transport.abort()
            return web.Response()
        reply = self._completion(body, request, fault)
        tag = {} if fault is None else {"fault": fault}
        self._write({**record, "status": 200, **reply["usage"], **tag})
        if fault == TRUNCATED:
            text = json.dumps(reply)
            return web.Response(text=text[: len(text) // 2], content_type="application/json")
        return web.json_response(reply)

    def _completion(self, body: dict[str, Any], request: Request, fault: str | None = None) -> dict[str, Any]:
        reply = completion(body, request, UNUSUAL[fault] if fault in UNUSUAL else self.scenario.reply(request), fault)
        found = self.scenario.first_token(request) if request.top_logprobs and fault not in UNUSUAL else None
        if found is not None:
            reply["choices"][0]["logprobs"] = logprobs(found, request.top_logprobs)
            # As OpenAI ends a reply that is as long as it may be.
            reply["choices"][0]["finish_reason"] = "length" if request.max_tokens == 1 else "stop"
        return reply

    def _read(self, body: Any) -> Request:
        if self.options.refuse_response_format and isinstance(body, dict) and "response_format" in body:
            raise BadRequest("Unsupported parameter: 'response_format'")
        return read(body)

    def _of_batch(self, body: Any, batch: str) -> tuple[int, dict[str, Any]]:
        try:
            request = self._read(body)
        except BadRequest as error:
            return 400, _error(str(error))
        reply = self._completion(body, request)
        identity = {"prompt": prompt_hash(body["messages"]), "seed": body.get("seed")}
        self._write({"kind": request.kind, **identity, "status": 200, "batch": batch, **reply["usage"]})
        return 200, reply

    def _refuse(self, fault: str, record: dict[str, Any], retry_after: int | None) -> web.Response:
        self._write({**record, "status": STATUS[fault], "fault": fault})
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return web.json_response(_error(f"simulated: {fault}"), status=STATUS[fault], headers=headers)

    def _write(self, record: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(json.dumps({"time": round(time.time(), 6), **record}) + "\n")

    async def _log_file(self, _: web.Application) -> AsyncIterator[None]:
        if self.options.log is None:
            yield
            return
        with open(self.options.log, "a", buffering=1) as self._log:
            yield
        self._log = None


def completion(body: dict[str, Any], request: Request, text: str, fault: str | None = None) -> dict[str, Any]:
    """The chat completion with `text`, truncated to the request's max_tokens; a refusal has null content."""
    text, finish_reason = _cut(text, request.max_tokens)
    prompt_tokens = sum(len(piece_ends(str(message["content"]))) for message in body["messages"])
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(piece_ends(text))}
    usage["total_tokens"] = sum(usage.values())
    message = {"content": None, "refusal": text} if fault == REFUSAL else {"content": text}
    return {
        "id": f"chatcmpl-{prompt_hash(body['messages'])}",
        "object": "chat.completion",
        "created": 0,  # constant: a reply is a function of its request
        "model": request.model,
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}],
        "usage": usage,
    }


def logprobs(found: dict[str, float], most: int) -> dict[str, Any]:
    """The `logprobs` of a choice of one token, with the `most` likeliest tokens."""
    ranked = sorted(found.items(), key=lambda one: -one[1])[:most]
    listed = [{"token": token, "logprob": number, "bytes": list(token.encode())} for token, number in ranked]
    return {"content": [{**listed[0], "top_logprobs": listed}]}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cut(text: str, max_tokens: int | None) -> tuple[str, str]:
    """(text, finish reason), truncated to `max_tokens`. A token of the simulator is a piece (`piece_ends`)."""
    ends = piece_ends(text)
    if max_tokens is None or len(ends) <= max_tokens:
        return text, "stop"
    return text[: ends[max_tokens - 1]], "length"


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tapir"}


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


def serve(options: Options, parent: int | None = None) -> None:
    """Serves until a signal arrives or the process `parent` ends; prints its URL once it listens."""
    asyncio.run(_serve(Server(options), parent))


async def _serve(server: Server, parent: int | None) -> None:
    runner = web.AppRunner(server.app(), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, server.options.host, server.options.port)
        await site.start()
        host, port = runner.addresses[0][:2]
        # `running` in the parent process reads the URL from this line.
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1", flush=True)
        stopped = asyncio.Event()
        for end in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(end, stopped.set)
        # The parent's id changes once the parent has ended: the kernel then gives this process another one.
        while not stopped.is_set() and parent in (None, os.getppid()):
            try:
                await asyncio.wait_for(stopped.wait(), PARENT_CHECK_S)
            except TimeoutError:
                continue
    finally:
        await runner.cleanup()
