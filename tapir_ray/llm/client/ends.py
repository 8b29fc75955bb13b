"""Finish reasons of many providers, mapped to six: whole, cut off, filtered, tool call, broken off, unknown.

end_of("MAX_TOKENS"), end_of("content_filter: RECITATION"), end_of("engine_overloaded")    # CUT, FILTERED, BROKEN

Only finish reasons that are known to end a whole answer are `WHOLE`. A name that is not listed is `UNKNOWN`. A config
can give its meaning: `teacher.finish_reasons: {my_end: stop}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

WHOLE, CUT, FILTERED, BROKEN = "stop", "length", "content_filter", "error"
"""Meanings that a config can give to a finish reason. The first three are the names of OpenAI's protocol."""
TOOL, UNKNOWN = "tool_calls", "unknown"

_NAMES = {
    WHOLE: "stop eos eos_token eot eom end end_turn end_of_text end_of_turn endoftext stop_sequence stop_token "
    "stop_str stop_string stop_word stopped complete completed done finish finished normal success succeeded",
    CUT: "length max_length max_tokens max_token max_output_tokens max_completion_tokens max_new_tokens max_output "
    "model_length context_length context_length_exceeded model_context_window_exceeded context_window_exceeded "
    "token_limit token_limit_reached limit error_limit length_limit repetition repetition_truncation incomplete "
    "truncated",
    FILTERED: "content_filter content_filtered contentfilter filter filtered safety sensitive recitation blocklist "
    "prohibited_content spii image_safety language refusal refused guardrail_intervened guardrail error_toxic toxic "
    "moderation blocked copyright model_armor data_inspection_failed",
    TOOL: "tool_calls tool_call tool_use function_call function_calls malformed_function_call unexpected_tool_call "
    "too_many_tool_calls malformed_tool_use",
    BROKEN: "error insufficient_system_resource abort aborted network_error engine_overloaded overloaded timeout "
    "time_limit timed_out cancel cancelled canceled user_cancel failed failure server_error internal_error "
    "service_unavailable rate_limit rate_limit_exceeded malformed_response malformed_model_output not_finished "
    "in_progress pause_turn interrupted load unload other",
}
_ENDS = {name: end for end, names in _NAMES.items() for name in names.split()}
_WORDS = (
    (BROKEN, re.compile("unavailable|time_?(?:d_)?out|time_limit|rate_limit|quota|overload|cancel|interrupt|abort")),
    (
        FILTERED,
        re.compile("filter|safety|polic|moderat|prohibit|block|refus|censor|sensitiv|violat|inspection|guardrail"),
    ),
    (CUT, re.compile("length|max_|limit|truncat|context_window")),
    (BROKEN, re.compile("error|fail|crash|exception|overflow")),
)
"""Words in names that are not listed; the first match decides. None of them makes an answer whole."""
_WORST_FIRST = (FILTERED, CUT, BROKEN, TOOL, WHOLE)


def end_of(finish_reason: Any, own: Mapping[str, str] | None = None) -> str:
    """Returns one of the six ends for a finish_reason, which may be any JSON value.

    `own` is the mapping `finish_reasons` of the endpoint, in which "" stands for a missing finish_reason. If a name has
    parts, the worst one counts: `stop: length` is cut off.
    """
    if isinstance(finish_reason, dict):  # SGLang's own API
        finish_reason = finish_reason.get("type")
    name = "" if finish_reason is None else name_of(finish_reason)
    given = {key.strip().lower(): end for key, end in (own or {}).items()}
    if name.strip().lower() in given:
        return given[name.strip().lower()]
    if not isinstance(finish_reason, str):
        return UNKNOWN
    parts = [_plain(part) for part in (name, *re.split(r"[:;,(/|]", name))]
    ends = {_ENDS[part] for part in parts if part in _ENDS}
    if not ends:
        ends = {end for end in [_by_words(parts[0])] if end}
    return next((end for end in _WORST_FIRST if end in ends), UNKNOWN)


def name_of(finish_reason: Any) -> str:
    """Returns a finish_reason as text for a message."""
    return finish_reason if isinstance(finish_reason, str) else json.dumps(finish_reason, ensure_ascii=False)[:100]


def _plain(name: str) -> str:
    """Returns a name in snake case: `max_tokens` for MaxTokens, MAX-TOKENS and FINISH_REASON_MAX_TOKENS."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_").removeprefix("finish_reason_")


def _by_words(name: str) -> str | None:
    return next((end for end, words in _WORDS if words.search(name)), None)
