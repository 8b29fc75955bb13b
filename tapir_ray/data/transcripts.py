"""Detects whole conversations written as one text, in the forms of chat templates and prompts.

    is_transcript("### Human: Two?### Assistant: 6")       # True
    is_transcript("Human: Two?\\n\\nAssistant:")             # False: a prompt for the answer

Such a text in a prompt column is no question, because it contains the answers.
"""

from __future__ import annotations

import re

_PAIRS = (
    (r"###\s*(?:Human|User|Instruction)\s*:", r"###\s*(?:Assistant|AI|Response|Output)\s*:"),  # Guanaco, Alpaca
    (r"\[INST\]", r"\[/INST\]"),  # Llama 2, Mistral
    (r"<\|im_start\|>\s*user", r"<\|im_start\|>\s*assistant"),  # ChatML
    (r"<\|start_header_id\|>\s*user", r"<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>"),  # Llama 3
    (r"<start_of_turn>\s*user", r"<start_of_turn>\s*model"),  # Gemma
    (r"<\|(?:user|prompter)\|>", r"<\|assistant\|>"),  # Zephyr, Phi-3, OpenAssistant
    (r"\[\|Human\|\]", r"\[\|AI\|\]"),  # Baize
    (r"(?:^|\n)\s*(?:Human|User|USER|HUMAN)\s*:", r"(?:^|\n|[ .!?])(?:Assistant|ASSISTANT)\s*:"),  # hh-rlhf, Vicuna
)
_MARKS = tuple((re.compile(user), re.compile(assistant)) for user, assistant in _PAIRS)
_ABOUT = re.compile(r"[?`]")
"""Marks of a question about a transcript, in the text before it; a system prompt has none of these."""
_WORD = re.compile(r"\w")


def is_transcript(text: str) -> bool:
    """Returns whether a text is a marked user turn and a marked answer, with at most a system prompt before them."""
    return any(_has_turns(text, user, assistant) for user, assistant in _MARKS)


def _has_turns(text: str, user: re.Pattern[str], assistant: re.Pattern[str]) -> bool:
    asked = user.search(text)
    if asked is None or _ABOUT.search(text, 0, asked.start()):
        return False
    question = _WORD.search(text, asked.end())
    answered = assistant.search(text, question.start()) if question else None
    return answered is not None and _WORD.search(text, answered.end()) is not None
