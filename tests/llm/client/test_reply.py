"""Replies in the shapes of many providers: none becomes an answer unless it is known to be whole."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import Endpoint
from tapir_ray.llm.client.ends import BROKEN, CUT, FILTERED, TOOL, UNKNOWN, WHOLE, end_of
from tapir_ray.llm.client.reply import Understood, understand

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
ABSENT = object()


def completion(finish_reason: Any = "stop", content: Any = "half an answer", **message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}}
    if finish_reason is not ABSENT:
        choice["finish_reason"] = finish_reason
    return {"model": "m", "choices": [choice], "usage": USAGE}


def read(body: Any, **endpoint: Any) -> Understood:
    return understand(body, Endpoint(model="m", **endpoint), "respond")


def became(body: Any, **endpoint: Any) -> tuple[str, str, int | None]:
    """Returns status, first word of the reason, and attempts."""
    got = read(body, **endpoint)
    return got.reply.status, (got.reply.reason or "").partition(":")[0], got.attempts


AGAIN, CUT_OFF, REFUSED = ("failed", "broken_off", None), ("filtered", "cut_off", 1), ("filtered", "refused", 1)
OK, UNSTATED, TOOL_CALL = ("ok", "", 1), ("failed", "unknown_end", 2), ("filtered", "tool_call", 1)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ("stop STOP eos eos_token end_turn stop_sequence stop_token COMPLETE FINISH_REASON_STOP EndTurn", OK),
        (
            "length MAX_TOKENS max_output_tokens model_length model_context_window_exceeded repetition "
            "FINISH_REASON_MAX_TOKENS MaxTokens token_limit max_thinking_tokens",
            CUT_OFF,
        ),
        (
            "content_filter content_filter:_RECITATION sensitive SAFETY recitation blocklist prohibited_content SPII "
            "refusal guardrail_intervened content-filter ERROR_TOXIC stop:content_filter prompt_blocked",
            REFUSED,
        ),
        (
            "error insufficient_system_resource abort network_error engine_overloaded timeout OTHER cancelled "
            "not_finished upstream_error gpu_failure",
            AGAIN,
        ),
        ("tool_calls function_call tool_use MALFORMED_FUNCTION_CALL", TOOL_CALL),
        ("wandered_off </s> 🛑 none", UNSTATED),
    ],
)
def test_finish_reasons_are_read_by_name(ends: str, expected: tuple[str, str, int | None]) -> None:
    assert {end: became(completion(end)) for end in ends.split()} == dict.fromkeys(ends.split(), expected)
    assert became(completion("content_filter: RECITATION")) == REFUSED


@pytest.mark.parametrize("end", [None, "", "  ", ABSENT, 1, 2.5, True, [], ["stop"], {}, {"type": 3}])
def test_a_missing_or_invalid_finish_reason_is_not_read_as_whole(end: Any) -> None:
    assert became(completion(end)) == UNSTATED
    reason = read(completion(end)).reply.reason
    assert reason is not None and "finish_reasons" in reason, "the reason names the key to set"


def test_a_config_gives_the_meaning_of_an_unknown_finish_reason() -> None:
    meanings: dict[str, Any] = {"Wandered_Off": "length", "": "stop", "1": "stop", "stop": "error"}
    assert became(completion("wandered_off"), finish_reasons=meanings) == CUT_OFF
    assert became(completion(None), finish_reasons=meanings) == OK
    assert became(completion(1), finish_reasons=meanings) == OK
    assert became(completion("stop"), finish_reasons=meanings) == AGAIN


def test_the_finish_reason_is_given_in_the_protocols_words() -> None:
    assert read(completion("MAX_TOKENS")).reply.finish_reason == "length"
    assert read(completion("end_turn")).reply.finish_reason == "stop"
    assert read(completion({"type": "length", "length": 4})).reply.finish_reason == "length"
    assert {end_of(end) for end in (WHOLE, CUT, FILTERED, BROKEN, TOOL)} == {WHOLE, CUT, FILTERED, BROKEN, TOOL}
    assert end_of(UNKNOWN) == UNKNOWN


def test_the_finish_reason_of_the_provider_wins_over_that_of_a_router() -> None:
    body = completion("stop")
    body["choices"][0]["native_finish_reason"] = "MAX_TOKENS"
    assert became(body) == CUT_OFF
    body["choices"][0]["native_finish_reason"] = "some_stop_word"
    assert became(body) == OK
    vision = completion(ABSENT)
    vision["choices"][0]["finish_details"] = {"type": "stop", "stop": "<|fim_suffix|>"}
    assert became(vision) == OK


ERROR = {"message": "Provider disconnected", "code": 502}


@pytest.mark.parametrize("where", ["body", "choice", "message"])
def test_a_reply_with_an_error_has_no_text(where: str) -> None:
    body = completion("stop")
    {"body": body, "choice": body["choices"][0], "message": body["choices"][0]["message"]}[where]["error"] = ERROR
    assert became(body) == AGAIN
    got = read(body)
    assert got.reply.text is None and "Provider disconnected" in str(got.reply.reason)
    assert got.count.output_tokens == 4, "its tokens are counted"


@pytest.mark.parametrize("nothing", [None, "", {}, [], False, {"message": "", "code": None}])
def test_an_empty_error_is_ignored(nothing: Any) -> None:
    assert became({**completion(), "error": nothing}) == OK


@pytest.mark.parametrize(
    ("body", "expected", "free"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, ("failed", "no_reply", None), True),
        ({"error": {"code": "503", "message": "busy"}}, ("failed", "no_reply", None), True),
        ({"error": {"code": 401, "message": "bad key"}}, ("failed", "no_reply", 1), True),
        ({"error": "overloaded"}, ("failed", "no_reply", None), False),
        ({"object": "error", "message": "bad", "code": 400}, ("failed", "no_reply", 1), True),
        ({"object": "error", "message": "slow down", "code": 429}, ("failed", "no_reply", None), True),
        ({"error": {"code": "content_filter", "message": "no"}}, REFUSED, False),
        ({"error": {"code": 403, "message": "flagged", "metadata": {"flagged_input": "x"}}}, REFUSED, False),
        ({"error": {"code": "context_length_exceeded", "message": "8192 at most"}}, ("failed", "no_reply", 1), False),
        ({"base_resp": {"status_code": 1027, "status_msg": "sensitive"}, "choices": None}, REFUSED, False),
        ({"base_resp": {"status_code": 1002, "status_msg": "rate"}}, ("failed", "no_reply", None), False),
        ({"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}, REFUSED, False),
        (
            {"choices": [], "prompt_filter_results": [{"content_filter_results": {"hate": {"filtered": True}}}]},
            REFUSED,
            False,
        ),
        ({"choices": []}, ("failed", "no_reply", None), False),
        ({"choices": "x"}, ("failed", "no_reply", None), False),
        ({"choices": [None]}, ("failed", "no_reply", None), False),
        ({}, ("failed", "no_reply", None), False),
        ([], ("failed", "no_reply", None), False),
        ("text", ("failed", "no_reply", None), False),
        (None, ("failed", "no_reply", None), False),
    ],
)
def test_bodies_without_a_choice_are_no_answers(body: Any, expected: tuple[str, str, int | None], free: bool) -> None:
    assert became(body) == expected
    assert read(body).known == free


def test_a_rate_limit_in_a_200_lowers_the_requests_in_flight() -> None:
    assert read({"error": {"code": 429, "message": "slow down"}}).overloaded
    assert not read({"error": {"code": 500, "message": "oh"}}).overloaded


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "2 + 2"}]}


@pytest.mark.parametrize(
    ("content", "text", "thoughts"),
    [
        ([THINKING, {"type": "text", "text": "It is "}, {"type": "text", "text": "4."}], "It is 4.", "2 + 2"),
        ([{"type": "thinking", "thinking": "2 + 2", "signature": "x"}, {"type": "text", "text": "4"}], "4", "2 + 2"),
        ([{"type": "reasoning", "text": "2 + 2"}, {"type": "output_text", "text": "4"}], "4", "2 + 2"),
        ([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "4"}], "4", None),
        ([{"text": "2 + 2", "thought": True}, {"text": "4"}], "4", "2 + 2"),
        (["It is ", "4."], "It is 4.", None),
        ({"type": "text", "text": "4"}, "4", None),
        ({"parts": [{"text": "4"}]}, "4", None),
        ([{"type": "text", "text": "<think>2 + 2</think>4"}], "4", "2 + 2"),
    ],
)
def test_content_parts_are_joined_and_their_thoughts_split_off(content: Any, text: str, thoughts: str | None) -> None:
    reply = read(completion(content=content), reasoning="keep").reply
    assert (reply.status, reply.text, reply.reasoning) == ("ok", text, thoughts)
    assert read(completion(content=content)).reply.reasoning is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (7, ("failed", "unreadable_content", 1)),
        (True, ("failed", "unreadable_content", 1)),
        ([{"type": "image_url", "image_url": {"url": "x"}}], ("failed", "unreadable_content", 1)),
        ([{"type": "text", "text": "see"}, {"type": "audio"}], ("failed", "unreadable_content", 1)),
        ({}, ("failed", "unreadable_content", 1)),
        ([{"type": "refusal", "refusal": "no"}], REFUSED),
        ([{"type": "tool_use", "name": "x"}], TOOL_CALL),
        ([], ("filtered", "empty", 1)),
        (None, ("filtered", "empty", 1)),
        ([THINKING], ("failed", "unfinished_thinking", 1)),
    ],
)
def test_contents_without_a_text_are_no_answers(content: Any, expected: tuple[str, str, int | None]) -> None:
    assert became(completion(content=content)) == expected


def test_a_lone_surrogate_is_no_answer_and_raises_nothing() -> None:
    assert became(completion(content="half \ud83d")) == ("failed", "unreadable_content", 1)
    cut = completion("length", "half \ud83d", reasoning_content="2 \ude00")
    assert became(cut) == CUT_OFF
    reply = read({**cut, "model": "m\ud800"}, reasoning="keep").reply
    assert (reply.text, reply.reasoning, reply.model) == ("half ?", "2 ?", "m?")
    for odd in (completion("odd\ud800"), {"error": "no \ud800"}, {**completion(), "error": "no \ud800"}):
        assert str(read(odd).reply).encode()


def test_an_answer_or_thoughts_with_a_usage_of_0_are_of_unknown_usage() -> None:
    none = {"prompt_tokens": 10, "completion_tokens": 0}
    assert not read({**completion(), "usage": none}).known
    assert not read({**completion(content=None, reasoning_content="2 + 2"), "usage": none}).known
    assert read({**completion(content=None), "usage": none}).known


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("end", ["stop", "length"])
def test_thoughts_without_an_answer_are_unfinished(name: str, end: str) -> None:
    for content in (None, "", " \n"):
        body = completion(end, content, **{name: "2 + 2"})
        assert became(body) == ("failed", "unfinished_thinking", 1)
        assert read(body, reasoning="keep").reply.reasoning == "2 + 2"


def test_thoughts_in_reasoning_details_are_kept() -> None:
    details = [{"type": "reasoning.text", "text": "2 + 2"}, {"type": "reasoning.encrypted", "data": "x"}]
    assert read(completion(reasoning_details=details), reasoning="keep").reply.reasoning == "2 + 2"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"refusal": "I will not"}, REFUSED),
        ({"refusal": None}, OK),
        ({"tool_calls": [{"id": "1"}]}, TOOL_CALL),
        ({"tool_calls": []}, OK),
        ({"function_call": {"name": "x"}}, TOOL_CALL),
        ({"content": None, "tool_calls": [{"id": "1"}]}, TOOL_CALL),
    ],
)
def test_refusals_and_tool_calls_in_a_message_are_read(
    message: dict[str, Any], expected: tuple[str, str, int | None]
) -> None:
    body = completion()
    body["choices"][0]["message"].update(message)
    assert became(body) == expected


@pytest.mark.parametrize("message", [ABSENT, None, "text", []])
def test_a_choice_without_a_message_fails_unless_it_has_a_text(message: Any) -> None:
    def body(end: str) -> dict[str, Any]:
        choice = {"finish_reason": end} if message is ABSENT else {"finish_reason": end, "message": message}
        return {"choices": [choice], "usage": USAGE}

    assert became(body("content_filter")) == REFUSED
    assert became(body("length")) == CUT_OFF
    assert became(body("stop")) == ("failed", "no_message", None)
    assert became({**body("stop"), "choices": [{"finish_reason": "stop", "text": "4"}]}) == OK


def test_the_first_of_several_choices_counts() -> None:
    body = completion("length")
    body["choices"].append(completion("stop", "whole")["choices"][0])
    assert became(body) == CUT_OFF


@pytest.mark.parametrize("model", [None, 4, {}, ABSENT])
def test_a_model_that_is_not_a_string_is_none(model: Any) -> None:
    body = completion()
    body.pop("model")
    if model is not ABSENT:
        body["model"] = model
    got = read(body)
    assert got.reply.status == "ok" and got.reply.model is None


def test_marks_of_a_config_replace_the_default_ones() -> None:
    assert read(completion(content="[THINK]2 + 2[/THINK]4")).reply.text == "4"
    own = read(completion(content="[[2 + 2]]4"), thinking_marks=[("[[", "]]")], reasoning="keep").reply
    assert (own.text, own.reasoning) == ("4", "2 + 2")
    assert read(completion(content="<think>a</think>b"), thinking_marks=[]).reply.text == "<think>a</think>b"
