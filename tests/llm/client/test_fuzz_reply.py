"""Any JSON value anywhere in a reply gives a reply with a status and a cost, never an answer with an unknown end."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.config import Endpoint, Price, PriceTier
from tapir_ray.data import schemas
from tapir_ray.llm.client.batch_lines import LineError, body_of, results_in
from tapir_ray.llm.client.ends import WHOLE, end_of
from tapir_ray.llm.client.reply import Understood, understand
from tapir_ray.llm.client.usage_fields import read_usage

WORDS = st.sampled_from(
    [
        "stop",
        "length",
        "MAX_TOKENS",
        "content_filter",
        "error",
        "tool_calls",
        "text",
        "thinking",
        "reasoning",
        "refusal",
        "end_turn",
        "<think>",
        "</think>",
        "[THINK]",
        "12",
        "-3",
        "1e400",
    ]
)
KEYS = st.sampled_from(
    [
        "error",
        "code",
        "message",
        "type",
        "text",
        "content",
        "finish_reason",
        "thinking",
        "parts",
        "choices",
        "usage",
        "refusal",
        "tool_calls",
        "reasoning",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "cached_tokens",
        "reasoning_tokens",
        "status_code",
        "base_resp",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
JSON = st.recursive(
    SCALARS, lambda values: st.lists(values, max_size=3) | st.dictionaries(KEYS, values, max_size=4), max_leaves=12
)
WELL_FORMED: dict[str, Any] = {
    "id": "1",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "<think>a</think>b", "refusal": None, "reasoning": None},
        }
    ],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    },
}
PLACES: list[tuple[Any, ...]] = [
    (),
    ("model",),
    ("error",),
    ("choices",),
    ("choices", 0),
    *(("choices", 0, key) for key in ("finish_reason", "message", "error", "native_finish_reason", "text")),
    *(("choices", 0, "message", key) for key in ("content", "refusal", "reasoning", "tool_calls", "error")),
    ("usage",),
    *(("usage", key) for key in WELL_FORMED["usage"]),
    ("usage", "prompt_tokens_details", "cached_tokens"),
    ("usage", "completion_tokens_details", "reasoning_tokens"),
]
PRICE = Price(
    input=1.0, cached_input=0.1, output=4.0, tiers=[PriceTier(above=9, input=2.0, cached_input=0.2, output=8.0)]
)
ENDPOINT = Endpoint(model="m", reasoning="keep")


@st.composite
def completions(draw: st.DrawFn) -> Any:
    body: Any = copy.deepcopy(WELL_FORMED)
    for place in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
        value = draw(JSON)
        if not place:
            body = value
            continue
        try:
            inside = body
            for step in place[:-1]:
                inside = inside[step]
            inside[place[-1]] = value
        except (LookupError, TypeError):
            continue  # A value inserted before has no such place.
    return body


def check(got: Understood) -> None:
    reply = got.reply
    assert reply.status in (schemas.OK, schemas.FILTERED, schemas.FAILED)
    assert (reply.status == schemas.OK) == (reply.reason is None)
    assert reply.status != schemas.OK or (reply.text or "").strip()
    assert got.attempts is None or got.attempts >= 1
    for text in (reply.text, reply.reason, reply.finish_reason, reply.model, reply.reasoning):
        assert text is None or isinstance(text, str)
    count = got.count.priced(PRICE)
    assert 0 <= count.cached_tokens <= count.input_tokens and 0 <= count.reasoning_tokens <= count.output_tokens
    assert count.cost(PRICE) >= 0 and count.requests == 1
    assert got.known or count.tokens == 0


@settings(deadline=None, max_examples=400)
@given(completions())
def test_any_reply_has_a_status_and_a_cost(body: Any) -> None:
    got = understand(body, ENDPOINT, "x")
    check(got)
    if got.reply.status == schemas.OK:
        assert end_of(body["choices"][0].get("finish_reason")) == WHOLE


@settings(deadline=None, max_examples=200)
@given(JSON)
def test_any_usage_has_a_cost_of_at_least_zero(usage: Any) -> None:
    count, known = read_usage(usage, "x")
    assert count.priced(PRICE).cost(PRICE) >= 0 and (known or count.tokens == 0)


@settings(deadline=None, max_examples=200)
@given(JSON)
def test_any_line_of_a_batch_gives_a_reply_or_an_error_of_its_request(line: Any) -> None:
    for found in (*results_in(json.dumps(line)).values(), {"custom_id": "1", "response": line}, {"error": line}):
        try:
            check(understand(body_of(found), ENDPOINT, "x"))
        except LineError as error:
            assert str(error)
