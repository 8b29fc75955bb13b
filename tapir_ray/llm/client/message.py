"""Text and thoughts of a message, in the formats of many servers: a string, parts, or fields for thoughts.

said = read_message(choice)                 # said.text, said.thoughts, said.refused, said.calls_tool, said.problem
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_TEXT = {"text", "output_text", "input_text"}
_THOUGHTS = {
    "thinking",
    "reasoning",
    "thought",
    "reasoning_text",
    "reasoning.text",
    "reasoning.summary",
    "summary_text",
}
_HIDDEN = {"redacted_thinking", "reasoning.encrypted"}
"""Encrypted thoughts."""
_TOOLS = {"tool_use", "tool_call", "function_call", "server_tool_use"}
_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "thoughts", "reasoning_details", "thinking_blocks")

_DEEPEST = 8
"""Most levels of nested lists and mappings that are read; keeps a hostile reply from ending the worker."""


@dataclass
class Said:
    """Content of a message. `problem` names a part that is neither text nor thoughts."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    refused: bool = False
    calls_tool: bool = False
    problem: str | None = None

    @property
    def text(self) -> str:
        """The texts of all parts, joined."""
        return "".join(self.texts)


def read_message(choice: dict[str, Any]) -> Said:
    """Returns the message of a choice, or its `text` as in the older completions API. Never raises."""
    said = Said()
    message = choice.get("message")
    if not isinstance(message, dict):
        if isinstance(choice.get("text"), str):
            said.texts.append(choice["text"])
        else:
            said.problem = "no_message: the reply has neither a message nor a text"
        return said
    for name in _THOUGHT_FIELDS:
        _add_thoughts(said, message.get(name), _DEEPEST)
        if said.thoughts:
            break  # OpenRouter and others repeat the same thoughts in a second field
    _add(said, message.get("content"), _DEEPEST)
    said.refused = said.refused or bool(message.get("refusal"))
    said.calls_tool = said.calls_tool or bool(message.get("tool_calls")) or bool(message.get("function_call"))
    return said


def _add(said: Said, content: Any, depth: int) -> None:
    if content is None:
        return
    if isinstance(content, str):
        said.texts.append(content)
    elif isinstance(content, list) and depth:
        for part in content:
            _add(said, part, depth - 1)
    elif isinstance(content, dict) and depth:
        _add_part(said, content, depth - 1)
    else:
        said.problem = f"unreadable_content: the content is a {type(content).__name__}, not a text"


def _add_part(said: Said, part: dict[str, Any], depth: int) -> None:
    kind = part.get("type")
    if not isinstance(kind, str):
        kind = "text" if "text" in part else None
    if kind in _THOUGHTS or part.get("thought") is True:
        _add_thoughts(said, part, depth)
    elif kind is None and isinstance(part.get("parts"), list):
        _add(said, part["parts"], depth)  # Gemini's own API
    elif kind in _TEXT and isinstance(part.get("text"), str):
        said.texts.append(part["text"])
    elif kind in _TEXT and isinstance(part.get("text"), dict) and isinstance(part["text"].get("value"), str):
        said.texts.append(part["text"]["value"])  # OpenAI's assistants
    elif kind == "refusal":
        said.refused = True
    elif kind in _TOOLS:
        said.calls_tool = True
    elif kind not in _HIDDEN:
        said.problem = f"unreadable_content: a part of type {kind!r} is not text"


def _add_thoughts(said: Said, value: Any, depth: int) -> None:
    """Adds the texts in a value. Encrypted thoughts have none."""
    if isinstance(value, str):
        if value.strip():
            said.thoughts.append(value)
    elif isinstance(value, list) and depth:
        for part in value:
            _add_thoughts(said, part, depth - 1)
    elif isinstance(value, dict) and depth:
        for name in ("thinking", "reasoning", "reasoning_content", "text", "summary", "content"):
            _add_thoughts(said, value.get(name), depth - 1)
