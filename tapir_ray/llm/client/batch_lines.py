"""Lines in the files of a batch: requests and their results.

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
    """Returns a request as one line of the input file of a batch."""
    line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
    # As UTF-8, since escapes would make texts in other scripts up to three times as long (`batch.max_bytes`).
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def results_in(text: str) -> dict[str, dict[str, Any]]:
    """Returns the results in an output file by the key of their request. Unreadable lines are skipped: asked again."""
    results = {}
    for line in text.split("\n"):
        with suppress(ValueError, RecursionError):  # json raises RecursionError for deeply nested lists
            found = json.loads(line)
            if isinstance(found, dict) and isinstance(found.get("custom_id"), str):
                results[found["custom_id"]] = found
    return results


def body_of(line: dict[str, Any] | None) -> Any:
    """Returns the chat completion of a result. Raises LineError for an error, and for None (no result)."""
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
        # As a body, so that `understand` counts a refused prompt as filtered and not as failed.
        return {"error": {"code": "content_filter", "message": fault.message}}
    again = status in (408, 409, 429) or status >= 500 if isinstance(status, int) else fault.again
    raise LineError(fault.message, again=again)
