"""Text and thoughts of a message, in the formats of many servers: a string, parts, or fields for thoughts.

found = read_message(choice)     # found.text, found.thoughts, found.refused, found.calls_tool, found.problem
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
class Content:
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


def read_message(choice: dict[str, Any]) -> Content:
    """Returns the message of a choice, or its `text` as in the older completions API. Never raises."""
    found = Content()
    message = choice.get("message")
    if not isinstance(message, dict):
        if isinstance(choice.get("text"), str):
            found.texts.append(choice["text"])
        else:
            found.problem = "no_message: the reply has neither a message nor a text"
        return found
    for name in _THOUGHT_FIELDS:
        _add_thoughts(found, message.get(name), _DEEPEST)
        if found.thoughts:
            break  # OpenRouter and others repeat the same thoughts in a second field
    _add(found, message.get("content"), _DEEPEST)
    found.refused = found.refused or bool(message.get("refusal"))
    found.calls_tool = found.calls_tool or bool(message.get("tool_calls")) or bool(message.get("function_call"))
    return found


def _add(found: Content, content: Any, depth: int) -> None:
    if content is None:
        return
    if isinstance(content, str):
        found.texts.append(content)
    elif isinstance(content, list) and depth:
        for part in content:
            _add(found, part, depth - 1)
    elif isinstance(content, dict) and depth:
        _add_part(found, content, depth - 1)
    else:
        found.problem = f"unreadable_content: the content is a {type(content).__name__}, not a text"


def _add_part(found: Content, part: dict[str, Any], depth: int) -> None:
    kind = part.get("type")
    if not isinstance(kind, str):
        kind = "text" if "text" in part else None
    if kind in _THOUGHTS or part.get("thought") is True:
        _add_thoughts(found, part, depth)
    elif kind is None and isinstance(part.get("parts"), list):
        _add(found, part["parts"], depth)  # Gemini's own API
    elif kind in _TEXT and isinstance(part.get("text"), str):
        found.texts.append(part["text"])
    elif kind in _TEXT and isinstance(part.get("text"), dict) and isinstance(part["text"].get("value"), str):
        found.texts.append(part["text"]["value"])  # OpenAI's assistants
    elif kind == "refusal":
        found.refused = True
    elif kind in _TOOLS:
        found.calls_tool = True
    elif kind not in _HIDDEN:
        found.problem = f"unreadable_content: a part of type {kind!r} is not text"


def _add_thoughts(found: Content, value: Any, depth: int) -> None:
    """Adds the texts in a value. Encrypted thoughts have none."""
    if isinstance(value, str):
        if value.strip():
            found.thoughts.append(value)
    elif isinstance(value, list) and depth:
        for part in value:
            _add_thoughts(found, part, depth - 1)
    elif isinstance(value, dict) and depth:
        for name in ("thinking", "reasoning", "reasoning_content", "text", "summary", "content"):
            _add_thoughts(found, value.get(name), depth - 1)
