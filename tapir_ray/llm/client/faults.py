"""Errors in the body of a reply: with HTTP 200, in a choice, or as a provider's own status.

fault = fault_in(completion)         # None, or a Fault: its message, its HTTP status, whether another attempt may help
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_PERMANENT = {400, 401, 402, 403, 404, 405, 413, 422}
_FOR_GOOD = re.compile(
    "insufficient_quota|context_length_exceeded|maximum context length|invalid_api_key|invalid_request|model_not_found"
)
_POLICY_CODES = {"1026", "1027", "1301", "invalid_prompt"}
"""Codes of content filters: MiniMax (1026 question, 1027 answer), Zhipu (1301), OpenAI (invalid_prompt)."""
_POLICY = re.compile(
    "content_?filter|content_?polic|policy_?violation|safety|moderat|sensitive|prohibited_?content|guardrail|inspection"
    "|responsible_?ai|flagged|censor|copyright|recitation",
    re.IGNORECASE,
)
_NOT_POLICY = re.compile("unavailable|time_?out|overload|limit", re.IGNORECASE)


@dataclass(frozen=True)
class Fault:
    """An error in a body. `status` is the HTTP status that it names, None without one."""

    message: str
    status: int | None = None
    policy: bool = False
    again: bool = True

    @property
    def overloaded(self) -> bool:
        """Whether fewer requests in flight might have prevented this error."""
        return self.status in (429, 503)


def fault_in(value: Any) -> Fault | None:
    """Returns the error in a reply, a choice or a message; None without one."""
    if not isinstance(value, dict):
        return None
    for name in ("error", "errors"):
        if _says_something(value.get(name)):
            return _fault(value[name])
    if value.get("object") == "error":  # vLLM and others put the error on the first level
        return _fault(value)
    base = value.get("base_resp")  # MiniMax
    if isinstance(base, dict) and base.get("status_code"):
        return _fault({"code": base["status_code"], "message": base.get("status_msg")})
    return None


def is_policy(*names: Any) -> bool:
    """Whether one of an error's codes and types belongs to a content filter."""
    words = [str(name) for name in names if isinstance(name, str | int)]
    return any(word in _POLICY_CODES or (_POLICY.search(word) and not _NOT_POLICY.search(word)) for word in words)


def is_blocked(completion: dict[str, Any]) -> bool:
    """Whether a reply without choices reports a filtered prompt (Azure, Gemini)."""
    feedback = completion.get("prompt_feedback") or completion.get("promptFeedback")
    if isinstance(feedback, dict) and (feedback.get("block_reason") or feedback.get("blockReason")):
        return True
    results = completion.get("prompt_filter_results")
    # Searched as text: the flags are nested several levels deep, by kind of content.
    return isinstance(results, list) and re.search(r'"filtered": true', json.dumps(results)) is not None


def _fault(error: Any) -> Fault:
    if isinstance(error, list):
        error = next((part for part in error if _says_something(part)), {})
    if not isinstance(error, dict):
        error = {"message": error}
    code, kind = error.get("code"), error.get("type")
    said = error.get("message")
    message = said if isinstance(said, str) and said.strip() else json.dumps(error, ensure_ascii=False)
    status = _status(code) or _status(error.get("status")) or _status(error.get("status_code"))
    flagged = isinstance(error.get("metadata"), dict) and "flagged_input" in error["metadata"]  # OpenRouter
    for_good = status in _PERMANENT or _FOR_GOOD.search(f"{code} {kind} {message}") is not None
    named = f"{code}: " if code not in (None, "") else ""
    return Fault(
        " ".join(f"{named}{message}".split())[:500].encode("utf-8", "replace").decode(),
        status,
        policy=is_policy(code, kind) or flagged,
        again=not for_good,
    )


def _status(code: Any) -> int | None:
    text = str(code)
    return int(text) if re.fullmatch(r"[45]\d\d", text, re.ASCII) else None


def _says_something(value: Any) -> bool:
    """Whether an error has any content: some gateways send an empty one with each reply."""
    if isinstance(value, dict):
        return any(map(_says_something, value.values()))
    if isinstance(value, list):
        return any(map(_says_something, value))
    return bool(value)
