"""Lines of a batch's files: a request, and what became of it.

content = line_of(key, body)
completion = body_of(results_in(output).get(key))
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from tapir_ray.llm.client.failures import RequestFailed
from tapir_ray.llm.client.faults import fault_in


class LineError(RequestFailed):
    """A request that failed in a batch."""


def line_of(key: str, body: dict[str, Any]) -> bytes:
    """A request as a line of a batch's file."""
    line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def results_in(text: str) -> dict[str, dict[str, Any]]:
    """The lines of a batch's output by the key of their request; what is no such line is left to be asked again."""
    results = {}
    for line in text.split("\n"):
        with suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict) and isinstance(found.get("custom_id"), str):
                results[found["custom_id"]] = found
    return results


def body_of(line: dict[str, Any] | None) -> Any:
    """The chat completion of a line. Raises LineError for one that is an error or is not there."""
    if line is None:
        raise LineError("not answered by its batch", again=True)
    response = line.get("response")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    if status == 200 or (status is None and isinstance(body, dict) and "choices" in body):
        return body
    fault = fault_in(body) or fault_in(line)
    if fault is None:
        again = not isinstance(status, int) or status in (408, 409, 429) or status >= 500
        raise LineError(f"{status}: no reason given", again=again)
    if fault.policy:
        return {"error": {"code": "content_filter", "message": fault.message}}
    again = status in (408, 409, 429) or status >= 500 if isinstance(status, int) else fault.again
    raise LineError(fault.message, again=again)
