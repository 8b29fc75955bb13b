"""Refusals in words: the stock phrases are recognised, and no ordinary answer is mistaken for one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.llm.client.refusals import LONGEST, is_refusal
from tapir_ray.simulator.families import FAMILIES, LEVELS

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "Sorry, I can't help with that.",
    "I am sorry, but I am unable to assist you with your request.",
    "I cannot fulfill your request. I'm just an AI assistant, it is not within my programming.",
    "I can't assist with that request, as it may cause harm.",
    "I'm not able to help with that.",
    "I cannot answer that question.",
    "I must respectfully decline this request.",
    "As an AI language model, I cannot provide medical advice.",
    "As an AI, I don't have access to real-time data.",
    "I'm sorry, but as an AI language model, I am unable to generate such content.",
    "I'm sorry, but I cannot provide instructions on how to pick a lock.",
    "I apologize, but I can't assist with creating malware.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_stock_phrases_are_refusals(text: str) -> None:
    assert is_refusal(text) and is_refusal(f"  {text.upper()}\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "i do not know .",
        "I'm sorry to hear that. Is there anything I can do to help?",
        "I'm sorry, but I cannot come to your party on Friday.",
        "I'm sorry, but we can't offer a refund after 30 days.",
        "I'm sorry, but I can't provide a refund.",
        "I am unable to complete the task.",
        "I can't help.",
        "I can't help it.",
        "I can't believe this is happening.",
        "I cannot express my joy in words.",
        "I cannot set up a reminder for 8 am tomorrow.",
        "I must decline your invitation.",
        "As a cybersecurity expert, I cannot emphasize enough the importance of passwords.",
        "As an AI assistant, I cannot stress enough how much sleep matters.",
        "As an AI robot chef, I can analyze countless recipes.",
        "Unfortunately, many of these species are endangered.",
        "The bot says: \"I'm sorry, but I can't help with that.\"",
    ],
)
def test_ordinary_answers_pass(text: str) -> None:
    assert not is_refusal(text)


@given(st.text(max_size=80), st.sampled_from(REFUSALS))
def test_a_stock_phrase_inside_an_answer_is_no_refusal(before: str, refusal: str) -> None:
    assert not is_refusal(f"Answer: {before} {refusal}")
    assert not is_refusal(f"{refusal} {before} {'But here is what to do. ' * (LONGEST // 20)}")


@given(st.sampled_from(FAMILIES), st.sampled_from(LEVELS), st.integers(0, 2**32))
def test_the_simulators_answers_pass(family, level: int, seed: int) -> None:  # type: ignore[no-untyped-def]
    problem = family.parse(family.generate(level, random.Random(seed)))
    assert not is_refusal(family.plain(problem)) and not is_refusal(family.styled(problem))


def test_no_recorded_answer_is_mistaken_for_a_refusal(data_folder: Path) -> None:
    """Real answers, many of them apologies and dialogues."""
    answers = 0
    for file in sorted((data_folder / "seeds").glob("*.jsonl")):
        for line in file.read_text().splitlines()[:5000]:
            answer = json.loads(line)["output"]
            assert not is_refusal(answer), answer
            answers += 1
    assert answers > 5000
