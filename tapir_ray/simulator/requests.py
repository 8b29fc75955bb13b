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
EXAMPLES = "expand_examples"
REWRITE, PAIRWISE, POINTWISE, REVISE = "rewrite", "judge_pairwise", "judge_pointwise", "revise"
RUBRIC, RUBRIC_ONE = "judge_rubric", "judge_rubric_one"
MT_BENCH_1, MT_BENCH_2, PREFERENCE = "mt_bench_turn_1", "mt_bench_turn_2", "alpaca_eval"
JUDGINGS = (RUBRIC, RUBRIC_ONE, PAIRWISE, POINTWISE)
"""Requests for scores of one answer or two."""
BENCHMARKS = (MT_BENCH_1, MT_BENCH_2, PREFERENCE)
NAMES = ("m", "M")
"""Names of both answers in the requests of AlpacaEval's default evaluator."""

_TAG = r"<{0}>\n(?P<{0}>.*)\n</{0}>"
_INSTRUCTION = r"<instruction(?P<id>(?: id=\w+)?)>\n(?P<instruction>.*)\n</instruction(?P=id)>"
_ANSWER = r"<{0}(?P=id)>\n(?P<{0}>.*)\n</{0}(?P=id)>"


def _pattern(tag: str) -> str:
    if tag == "instruction":
        return _INSTRUCTION
    return (_ANSWER if tag.startswith(("answer", "steps")) else _TAG).format(tag)


PROMPTS = {
    kind: re.compile(r"\s*".join(_pattern(tag) for tag in tags) + "(?P<rest>.*)", re.DOTALL)
    for kind, tags in {
        RUBRIC: ("criteria", "instruction", "answer_1", "answer_2"),
        RUBRIC_ONE: ("criteria", "instruction", "answer"),
        PAIRWISE: ("instruction", "answer_1", "answer_2"),
        REWRITE: ("task", "style", "instruction", "answer"),
        POINTWISE: ("instruction", "answer"),
        REVISE: ("instruction", "steps"),
        LABEL: ("labels", "instruction"),
        EXPAND: ("task", "instruction"),
    }.items()
}
_FIRST = r"<instruction_1(?P<id>(?: id=\w+)?)>\n(?P<instruction>.*)\n</instruction_1(?P=id)>(?P<rest>.*)"
PROMPTS[EXAMPLES] = re.compile(_pattern("task") + r"\s*" + _FIRST, re.DOTALL)
"""Patterns of the prompts. Those with more tags come first, because they match those with fewer as well."""
_LATER = r"<{0}(?P=id)>\n(?P<{0}>.*)\n</{0}(?P=id)>"
_TURN_1 = (
    r"<question_1(?P<id>(?: id=\w+)?)>\n(?P<question_1>.*)\n</question_1(?P=id)>\s*"
    rf"(?:{_LATER.format('reference_1')}\s*)?{_LATER.format('answer_1')}"
)
_TURN_2 = rf"\s*{_LATER.format('question_2')}\s*(?:{_LATER.format('reference_2')}\s*)?{_LATER.format('answer_2')}"
MT_BENCH = {
    MT_BENCH_2: re.compile(_TURN_1 + _TURN_2, re.DOTALL),
    MT_BENCH_1: re.compile(_TURN_1, re.DOTALL),
}
"""Patterns of the prompts of MT-Bench; the first turn's matches the second's too."""
ALPACA_EVAL = re.compile(
    r'"instruction": """(?P<instruction>.*)""",\s*\}.*"model_identifier": "m",\s*"output": """(?P<output_1>.*)"""\s*\},'
    r'\s*\{\s*"model_identifier": "M",\s*"output": """(?P<output_2>.*)"""\s*\}\s*\}',
    re.DOTALL,
)
"""Prompt of AlpacaEval's default evaluator (the package alpaca-eval)."""
CHANGE = re.compile(
    r"^- How to change it: (?P<operation>.+)$|^- It .*, and is (?P<level>easier|harder) than the instruction below\.$",
    re.MULTILINE,
)
"""What the shipped prompts `evolve` and `feedback` ask for, before their tags."""
STYLE = re.compile(r"\s*Task type: [^\n]*\.\s*\nAnswering style:.*?(?:\n\n|\Z)", re.DOTALL)
"""The shipped `respond` prompt at the start of a system message, up to the blank line before the row's own system text.

Of a style that contains a blank line, only the text before it is matched.
"""


class BadRequest(Exception):
    """A request that violates the protocol; its text becomes the error message of the reply."""


@dataclass(frozen=True)
class Request:
    """One chat request: `parts` are the texts between the tags, `conversation` the turns to answer.

    An expansion by `evolve` also has the part `operation`, one by `feedback` the part `level` (easier or harder).
    """

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
    top_logprobs: int = 0
    """Number of likeliest first tokens whose probabilities are asked for."""


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
    logprobs = (body.get("top_logprobs") or 0) if body.get("logprobs") else 0
    if not isinstance(logprobs, int) or not 0 <= logprobs <= 20:
        raise BadRequest("top_logprobs must be a whole number from 0 to 20")
    return Request(kind, parts, tuple(conversation), seed or 0, identity, max_tokens, model, schema, logprobs)


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
    content = messages[-1]["content"]
    if len(messages) == 1 and messages[0]["role"] == "user":
        # A cheap test before the patterns, which search the whole text.
        patterns = PROMPTS if "</instruction" in content else MT_BENCH if "</question_1" in content else {}
        for kind, pattern in patterns.items():
            match = pattern.search(content)
            if match is not None:
                # Only the words before the tags: a text between them asks for nothing.
                change = CHANGE.search(content[: match.start()]) if kind == EXPAND else None
                # An instruction like several is answered as one like the first.
                kind = EXPAND if kind == EXAMPLES else kind
                return kind, _parts(match) | (_parts(change) if change else {}), []
    if '"model_identifier": "M"' in content and (match := ALPACA_EVAL.search(content)) is not None:
        return PREFERENCE, _parts(match), []
    first = messages[0]
    style = STYLE.match(first["content"]) if first["role"] == "system" else None
    if style is None:
        return ANSWER, {}, messages
    own = first["content"][style.end() :].strip()
    return STYLED, {}, [*([{**first, "content": own}] if own else []), *messages[1:]]


def _parts(match: re.Match[str]) -> dict[str, str]:
    """The texts between the tags of a prompt; without those that are optional and not there."""
    return {tag: text for tag, text in match.groupdict().items() if tag != "id" and text is not None}
