"""Failed requests: whether to try again, whether they may have been billed, and the reply that reports them.

except FAILURES as error:
    again, pause_s = retry(error)
"""

from __future__ import annotations

import email.utils
import re
import socket
import time

import openai

from tapir_ray.data.schemas import FAILED, FILTERED
from tapir_ray.data.values import one_line
from tapir_ray.errors.redaction import redacted
from tapir_ray.llm.client.faults import is_policy
from tapir_ray.llm.client.reply import REFUSED, Reply


class RequestFailed(Exception):
    """A request that its engine did not answer and that costs nothing; `again` if another attempt may help."""

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


class BadReply(Exception):
    """An HTTP success whose body is not JSON."""


FAILURES = (openai.OpenAIError, TimeoutError, BadReply, RequestFailed)
"""Exceptions that `Client.generate` may raise."""

_FORMAT_STATUS = (400, 404, 415, 422, 500, 501)
_NAMES_FORMAT = re.compile(
    r"response[ _]?(?:format|schema|mime)|json[ _]?(?:schema|object|mode|validate)|(?:generate|valid) json"
    r"|structured.?output|guided.?(?:decoding|json)|grammar|requested parameters"
    r"|un(?:supported|known|recogni[sz]ed|expected) (?:request )?(?:parameter|argument|field|key)"
    r"|extra (?:inputs|fields) (?:are )?not permitted|additional properties are not allowed",
    re.IGNORECASE,
)
"""Words of many endpoints that refuse a `response_format`."""


def failed_reply(error: BaseException, timeout_s: float) -> Reply:
    """Returns the reply for a request that raised `error`: filtered if a policy refused it, else failed."""
    if isinstance(error, openai.APIStatusError) and error.status_code < 500 and is_policy(error.code, error.type):
        return Reply(None, status=FILTERED, reason=REFUSED, finish_reason="content_filter")
    if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
        # The aiohttp transport reports a refused connection as a timeout; only the cause names the problem.
        error = error.__cause__
    message = one_line(error) or f"no reply within {timeout_s:g} s"
    return Reply(None, status=FAILED, reason=f"{type(error).__name__}: {redacted(message)[:500]}")


def may_be_paid(error: BaseException) -> bool:
    """Whether a request that raised `error` may have been answered and billed, with an unknown usage."""
    if isinstance(error, openai.APIConnectionError):
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ConnectionRefusedError | socket.gaierror):
                return False  # the request never reached the endpoint
            cause = cause.__cause__ or cause.__context__
        return True
    return not isinstance(error, openai.APIStatusError | RequestFailed)


def retry(error: Exception) -> tuple[bool, float | None]:
    """Returns (whether to try again, the seconds that the endpoint asked to wait or None)."""
    if isinstance(error, openai.APIStatusError):
        again = error.status_code in (408, 409, 429) or error.status_code >= 500
        # OpenAI answers 429 for an empty account too; waiting does not fill it.
        return again and error.code != "insufficient_quota", _retry_after(error)
    if isinstance(error, RequestFailed):
        return error.again, None
    transient = (
        openai.APIConnectionError,
        openai.APIResponseValidationError,
        TimeoutError,
        BadReply,
    )
    return isinstance(error, transient), None


def refuses_format(error: Exception) -> bool:
    """Whether a request with a `response_format` failed because of it."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _FORMAT_STATUS and _NAMES_FORMAT.search(str(error)) is not None
    return isinstance(error, RequestFailed) and _NAMES_FORMAT.search(str(error)) is not None


def overloaded(error: Exception) -> bool:
    """Whether fewer requests in flight might have prevented this error."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (429, 503)
    return isinstance(error, TimeoutError | openai.APITimeoutError)


def _retry_after(error: openai.APIStatusError) -> float | None:
    received = error.response.headers
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = received.get(name)
        if value is None:
            continue
        if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
            return float(value) / unit
        when = email.utils.parsedate_tz(value)
        if when is not None:
            return max(0.0, email.utils.mktime_tz(when) - time.time())
    return None
