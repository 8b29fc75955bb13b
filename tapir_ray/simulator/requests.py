"""Recognises the purpose of a chat request by the tags of the shipped prompts (`llm/prompts/*.jinja`).

Tags around quoted text carry an id that the text does not contain. Tags without an id, as in a user's own prompts, are
recognised too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]

STUDENT = "simulated-student"
"""Model name whose requests get a student's answers: sometimes wrong, more often for harder instructions."""

ANSWER, STYLED, LABEL, EXPAND = "answer", "styled_answer", "label", "expand"
REWRITE, PAIRWISE, POINTWISE = "rewrite", "judge_pairwise", "judge_pointwise"

_TAG = r"<{0}>\n(?P<{0}>.*)\n</{0}>"
_INSTRUCTION = r"<instruction(?P<id>(?: id=\w+)?)>\n(?P<instruction>.*)\n</instruction(?P=id)>"
_ANSWER = r"<{0}(?P=id)>\n(?P<{0}>.*)\n</{0}(?P=id)>"


def _pattern(tag: str) -> str:
    if tag == "instruction":
        return _INSTRUCTION
    return (_ANSWER if tag.startswith("answer") else _TAG).format(tag)


PROMPTS = {
    kind: re.compile(r"\s*".join(_pattern(tag) for tag in tags) + "(?P<rest>.*)", re.DOTALL)
    for kind, tags in {
        PAIRWISE: ("instruction", "answer_1", "answer_2"),
        REWRITE: ("task", "style", "instruction", "answer"),
        POINTWISE: ("instruction", "answer"),
        LABEL: ("labels", "instruction"),
        EXPAND: ("task", "instruction"),
    }.items()
}
"""Patterns of the prompts. Those with more tags come first, because they match those with fewer as well."""
STYLE = re.compile(r"\s*Task type: [^\n]*\.\s*\nAnswering style:.*?(?:\n\n|\Z)", re.DOTALL)
"""The shipped `respond` prompt at the start of a system message, up to the blank line before the row's own system text.

Of a style that contains a blank line, only the text before it is matched.
"""


class BadRequest(Exception):
    """A request that violates the protocol; its text becomes the error message of the reply."""


@dataclass(frozen=True)
class Request:
    """One chat request: `parts` are the texts between the tags, `conversation` the turns to answer."""

    kind: str
    parts: dict[str, str]
    conversation: tuple[Message, ...]
    seed: int
    identity: str
    """Everything that a reply may depend on: model, messages, seed and temperature."""
    max_tokens: int | None
    model: str
    schema: dict[str, Any] | None = None
    """JSON schema of the reply; it changes the form of a reply and not its content."""


def read(body: Any) -> Request:
    """Reads the request in a JSON body. Raises BadRequest, which names the wrong field."""
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    messages = _messages(body.get("messages"))
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("model must be a name")
    if body.get("stream"):
        raise BadRequest("stream is not supported: leave it out")
    if body.get("n") not in (None, 1):
        raise BadRequest("n must be 1")
    max_tokens = body.get("max_completion_tokens", body.get("max_tokens"))
    if max_tokens is not None and (not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1):
        raise BadRequest("max_tokens must be a whole number of at least 1")
    seed = body.get("seed")
    if seed is not None and not isinstance(seed, int):
        raise BadRequest("seed must be a whole number")
    kind, parts, conversation = _recognise(messages)
    identity = repr((model, [(m["role"], m["content"]) for m in messages], seed, body.get("temperature")))
    schema = _schema(body.get("response_format"))
    return Request(kind, parts, tuple(conversation), seed or 0, identity, max_tokens, model, schema)


def _schema(response_format: Any) -> dict[str, Any] | None:
    if response_format is None or response_format == {"type": "text"}:
        return None
    given = response_format if isinstance(response_format, dict) else {}
    wanted = given.get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    if given.get("type") != "json_schema" or not isinstance(schema, dict):
        raise BadRequest("response_format must be of type text, or json_schema with a schema")
    return schema


def _messages(messages: Any) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one message")
    read = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest("each of messages must have a role")
        content = message.get("content")
        if isinstance(content, list):
            parts = [part.get("text") if isinstance(part, dict) else None for part in content]
            if not all(isinstance(part, str) for part in parts):
                raise BadRequest("content parts must be texts")
            content = "".join(str(part) for part in parts)
        if not isinstance(content, str):
            raise BadRequest("each of messages must have a content")
        read.append({"role": message["role"], "content": content})
    return read


def _recognise(messages: list[Message]) -> tuple[str, dict[str, str], list[Message]]:
    if len(messages) == 1 and messages[0]["role"] == "user":
        content = messages[0]["content"]
        # A cheap test before the patterns, which search the whole text.
        for kind, pattern in PROMPTS.items() if "</instruction" in content else ():
            match = pattern.search(content)
            if match is not None:
                return kind, {tag: text for tag, text in match.groupdict().items() if tag != "id"}, []
    first = messages[0]
    style = STYLE.match(first["content"]) if first["role"] == "system" else None
    if style is None:
        return ANSWER, {}, messages
    own = first["content"][style.end() :].strip()
    return STYLED, {}, [*([{**first, "content": own}] if own else []), *messages[1:]]
