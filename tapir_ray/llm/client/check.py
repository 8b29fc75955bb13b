"""Checks that an endpoint answers, accepts the key and serves the model, without a request to a model.

await check(target)
"""

from __future__ import annotations

import ipaddress
import json
import logging
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit

import openai

from tapir_ray.config.prices import DEFAULT_URL
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.llm.client.openai import connect, headers
from tapir_ray.llm.client.target import Target

TIMEOUT_S = 20.0
SHOWN = 5
"""Most names of models in a message."""
LONG_LIST = 50
"""Length from which the model list of a public provider may leave out aliases: a missing name is then a warning."""

log = logging.getLogger(__name__)

_NOT_HERE = (404, 405)
_OWN_SUFFIXES = (".local", ".internal", ".svc")


@dataclass(frozen=True)
class _Reply:
    status: int
    body: Any
    """The JSON of the reply; None if it is not JSON."""
    text: str


async def check(target: Target) -> None:
    """Raises InputError, with the change to make, for an endpoint that cannot be used.

    Such an endpoint does not answer, refuses the key, does not answer with JSON, has neither a model list nor chat
    completions under its URL, or does not serve `endpoint.model`.

    An endpoint without a model list passes if it has chat completions: an empty request, which reaches no model, shows
    it. A model that is not in the list is looked up by its name, because lists leave out aliases. If that fails too it
    is refused, except for a public list of LONG_LIST names or more: then a warning is logged.
    """
    reply = await _ask(target, "GET", "/models")
    _refuse_key(target, reply)
    if reply.status >= 500:
        raise InputError(f"{_where(target)} answers HTTP {reply.status}; start again when it is up")
    names = _names(reply.body)
    if names is None:
        if reply.status in _NOT_HERE or reply.status < 300:
            await _check_place(target, reply)
    elif names and target.endpoint.model not in names and not await _knows_model(target):
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        wanted = f"{_section(target)}.model {target.endpoint.model}"
        problem = f"{wanted} is not among the models of {_where(target)}, which are {shown}"
        if len(names) < LONG_LIST or is_own(target.base_url):
            raise InputError(f"{problem}; name one of them")
        log.warning("%s; unless it is an alias, every request will fail", problem)


def is_own(base_url: str | None) -> bool:
    """Whether a URL is on this machine or in a private network, in which a model list is complete."""
    host = urlsplit(base_url or DEFAULT_URL).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(_OWN_SUFFIXES)


def _where(target: Target) -> str:
    return f"{_section(target)}.base_url {target.base_url or DEFAULT_URL}"


def _section(target: Target) -> str:
    return "student.endpoint" if target.role == "student" else target.role


async def _check_place(target: Target, reply: _Reply) -> None:
    """Raises InputError for a URL without a model list, unless it has chat completions."""
    where = _where(target)
    base = (target.base_url or "").rstrip("/")
    if base and not base.endswith("/v1"):
        below = replace(target, base_url=f"{base}/v1")
        if _names((await _ask(below, "GET", "/models")).body) is not None:
            raise InputError(f"{where} is not the API itself: set it to {below.base_url}")
    if reply.body is None and reply.status < 300:
        raise InputError(
            f"{where} answers {' '.join(reply.text.split())[:60]!r} instead of a list of models; give the URL of an "
            "OpenAI-compatible API, which mostly ends in /v1"
        )
    chat = await _ask(target, "POST", "/chat/completions")
    _refuse_key(target, chat)
    if chat.status in _NOT_HERE or (chat.status < 300 and chat.body is None):
        raise InputError(
            f"{where} has neither /models nor /chat/completions (HTTP {chat.status}); give the URL of an "
            "OpenAI-compatible API, which mostly ends in /v1"
        )


def _refuse_key(target: Target, reply: _Reply) -> None:
    if reply.status in (401, 403):
        raise InputError(
            f"{_where(target)} refuses the key (HTTP {reply.status}); "
            f"correct the variable that {_section(target)}.api_key_env names"
        )


async def _knows_model(target: Target) -> bool:
    """Whether the endpoint knows the model although its list does not name it, as with aliases."""
    reply = await _ask(target, "GET", f"/models/{quote(target.endpoint.model, safe='')}")
    return reply.status < 300 and isinstance(reply.body, dict) and "id" in reply.body


def _names(body: Any) -> list[str] | None:
    """Returns the names in a model list; None for anything else."""
    # Some providers send the list without the mapping around it.
    entries = body.get("data") if isinstance(body, dict) else body
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
        return None
    return [str(entry["id"]) for entry in entries]


async def _ask(target: Target, method: str, path: str) -> _Reply:
    """Returns the reply to an empty request, whatever its status. Raises InputError if none comes."""
    client = connect(target).with_options(timeout=min(TIMEOUT_S, target.endpoint.timeout_s))
    without_key: Any = {"headers": headers(target)}
    try:
        if method == "GET":
            status, text = 200, await client.get(path, cast_to=str, options=without_key)
        else:
            status, text = 200, await client.post(path, cast_to=str, body={}, options=without_key)
    except openai.APIStatusError as error:
        status, text = error.status_code, error.response.text
    except openai.APIConnectionError as error:
        cause = one_line(error.__cause__ or error) or "no reply in time"
        raise InputError(f"{_where(target)} cannot be reached ({cause}); correct the URL or start the server") from None
    finally:
        await client.close()
    try:
        return _Reply(status, json.loads(text), text)
    except ValueError:
        return _Reply(status, None, text)
