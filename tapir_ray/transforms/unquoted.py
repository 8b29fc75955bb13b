"""Lines of a judge's reply, with thoughts removed and text that is not the judge's own words marked.

lines = lines_of("The answer says:\n> Scores: 10 10\nScores: 3 8")     # the second line is QUOTED
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

PLAIN, CODE, BLOCK, QUOTED, FENCE = "plain", "code", "block", "quoted", "fence"
"""Kinds of lines. PLAIN: the judge's own words. CODE: shown as code. BLOCK: in the code block that ends the reply,
which may be the verdict. QUOTED: somebody else's words. FENCE: the edge of a code block."""

_OPENED = r"<(?:think|thinking|thoughts?|reasoning|seed:think)>|\[THINK\]|◁think▷|<\|channel\|>analysis<\|message\|>"
_CLOSED = (
    r"</(?:think|thinking|thoughts?|reasoning|seed:think)>|\[/THINK\]|◁/think▷"
    r"|<\|end\|>|<\|channel\|>final<\|message\|>"
)
_THOUGHT_TAG = re.compile(f"(?P<closed>{_CLOSED})|(?:{_OPENED})", re.IGNORECASE)
_QUOTED_TAG = re.compile(r"<(answer_[12]|answer(?= id=)|instruction|blockquote|quote|q)\b[^<>]{0,99}>", re.IGNORECASE)
_ANSWER = re.compile(r"\s*<answer>((?:(?!<answer>).)*)</answer>\s*", re.DOTALL)
"""Matches a whole reply in the tag that some reasoning models are trained to use; tags of our prompts carry an id."""
_FENCE = re.compile(r"\s*(?P<mark>`{3,}|~{3,})(?P<rest>.*)$")
_CODE_LINE = re.compile(r"(?: {4}|\t|\s*`+[^`]+`+\W*$)")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+")
_WHOSE = (
    r"\b(?:answers?|assistants?|responses?|repl(?:y|ies)|students?|models?|texts?|it|one|first|second|which|that|who)\b"
)
_SAYS = (
    r"\b(?:say|said|write|wrote|written|read|end|start|begin|began|contain|include|claim|state|demand|ask|tell|told|"
    r"instruct|quote|append|add|put|insert|inject|print|output|show|close|finish|give|gave|conclud|suggest|propos|"
    r"assign|award|request|urg|attach|embed|present|display|announc|assert|insist|pretend|forg|declar)(?:s|es|d|ed|ing|ting|ding)?\b"
)
_QUOTING = re.compile(
    rf"{_WHOSE}.*?{_SAYS}|\bdraft|\bfor example\b|\be\.g\.|\binstead of\b|\bhypothetical|\bignor", re.IGNORECASE
)

_OWN = re.compile(r"\b(?:my|I|therefore|thus|here (?:is|are))\b", re.IGNORECASE)
"""Marks a sentence as the judge's own: `Answer 2 adds nothing, so my scores are:` is no quotation."""

_LEAD_CHARS = 400


@dataclass(frozen=True)
class Line:
    """Line of a reply, and its kind."""

    text: str
    kind: str = PLAIN


def lines_of(text: str) -> list[Line]:
    """Returns the lines of a reply without its thoughts, each as PLAIN, CODE, BLOCK, QUOTED or FENCE."""
    text = without_thoughts(text)
    wrapped = _ANSWER.fullmatch(text)
    # Dedented, because four spaces of indentation would mark every line as code.
    lines = _outside_fences(textwrap.dedent(_without_tagged(wrapped[1] if wrapped else text)).splitlines())
    return _outside_quotation_marks(lines)


def without_thoughts(text: str) -> str:
    """Removes the thoughts of a reply: text between their tags, before an unmatched closing tag, and after an unmatched
    opening tag."""
    kept: list[str] = []
    depth = end = 0
    for tag in _THOUGHT_TAG.finditer(text):
        if not depth:
            kept.append(text[end : tag.start()])
        if tag["closed"] is None:
            depth += 1
        elif depth:
            depth -= 1
        else:
            kept = []
        end = tag.end()
    return "\n".join(kept if depth else [*kept, text[end:]])


def _without_tagged(text: str) -> str:
    """Removes text between tags of our prompts or of quotations."""
    kept: list[str] = []
    lowered, end = text.lower(), 0
    never_closed: set[str] = set()
    for tag in _QUOTED_TAG.finditer(text):
        name = tag[1].lower()
        if tag.start() < end or name in never_closed:
            continue
        closing = lowered.find(f"</{name}", tag.end())
        if closing < 0:
            if " id=" in tag[0] and _alone(text, tag):
                # Such a tag of our prompt, never closed, begins a quotation of unknown length: drop all that follows.
                kept.append(text[end : tag.start()])
                return "\n\n".join(kept)
            never_closed.add(name)
            continue
        kept.append(text[end : tag.start()])
        after = lowered.find(">", closing)
        end = after + 1 if after >= 0 else len(text)
    return "\n\n".join([*kept, text[end:]])


def _alone(text: str, tag: re.Match[str]) -> bool:
    """Returns True if a tag is the only text of its line."""
    return not (text[: tag.start()].rpartition("\n")[2] + text[tag.end() :].partition("\n")[0]).strip()


def before(lines: Sequence[Line], at: int) -> str:
    """Returns the text of the nearest line before `at` that is not blank; empty if there is none."""
    return next((line.text.strip() for line in reversed(lines[:at]) if line.text.strip()), "")


def ends_reply(lines: Sequence[Line], at: int) -> bool:
    """Returns True if no letter or digit follows the line `at`."""
    return not any(re.search(r"\w", line.text) for line in lines[at + 1 :])


def quotes(text: str) -> bool:
    """Returns True if the last sentence of a line announces somebody else's words, or words that do not count."""
    bare = text[-_LEAD_CHARS:].rstrip("*_`\"')] ")
    if not bare or bare[-1] in ".!?。！？":
        return False
    found = _QUOTING.search(sentence := _SENTENCE.split(bare)[-1])
    return found is not None and not _OWN.search(sentence, found.end())


def announces(text: str) -> bool:
    """Returns True if a line leads up to the next one, as `Answer 1 ends with:` does."""
    return text.rstrip("*_`\"' ").endswith((":", ","))


def _outside_fences(texts: Sequence[str]) -> list[Line]:
    """Marks the lines inside code blocks: BLOCK in the block that ends the reply, QUOTED in any other."""
    lines: list[Line] = []
    mark, opened, closed = "", 0, False
    for text in texts:
        fence = _FENCE.match(text)
        if mark:
            closed = bool(fence and fence["mark"].startswith(mark) and not fence["rest"].strip())
            lines.append(Line("", FENCE) if closed else Line(text, QUOTED))
            mark = "" if closed else mark
        elif fence and fence["mark"][0] not in fence["rest"]:
            mark, opened = fence["mark"], len(lines)
            lines.append(Line("", FENCE))
        elif text.lstrip().startswith(">"):
            lines.append(Line(text, QUOTED))
        else:
            lines.append(Line(text, CODE if _CODE_LINE.match(text) else PLAIN))
    edges = [at for at, line in enumerate(lines) if line.kind == FENCE]
    if edges and (mark or ends_reply(lines, edges[-1])):
        end = len(lines) if mark else edges[-1]
        lines[opened + 1 : end] = [Line(line.text, BLOCK) for line in lines[opened + 1 : end]]
    return lines


def _outside_quotation_marks(lines: Sequence[Line]) -> list[Line]:
    """Marks lines as QUOTED that are inside a quotation which opens before them and closes after them."""
    texts = [line.text for line in lines]
    inside = [False] * len(lines)
    for opening, closing in (('"', '"'), ("“", "”"), ("«", "»"), ("「", "」"), ("『", "』")):
        opened: int | None = None
        for at, text in enumerate(texts):
            for sign in re.findall(f"[{opening}{closing}]", text):
                if opened is None:
                    opened = at if sign == opening else None
                elif sign == closing:
                    for between in range(opened + 1, at + (text.lstrip()[:1] != closing)):
                        inside[between] = True
                    opened = None
    return [
        Line(line.text, QUOTED) if quoted and line.kind != FENCE else line
        for line, quoted in zip(lines, inside, strict=True)
    ]
