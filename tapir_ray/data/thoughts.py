"""Separates a model's thoughts from its answer by the marks around them. Pure functions without other imports.

split_thoughts("<think>2 + 2</think>4")            # ("2 + 2", "4", True)
split_thoughts("[THINK]2 + 2")                     # ("2 + 2", "", False): cut off while it thought

Only thoughts at the beginning are cut. The opening mark may be missing, because some chat templates put it into the
prompt (DeepSeek-R1, Qwen3). A mark that is quoted, in code or in the middle of a sentence is text of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Mark = tuple[str, str]
"""What opens and what closes thoughts."""

UNFINISHED_THINKING = "unfinished_thinking"
"""Reason of a failed row whose answer ended before its thoughts did."""
HARMONY: Mark = ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")
"""Channels of gpt-oss: everything before its `final` channel is thoughts."""
DEFAULT_MARKS: tuple[Mark, ...] = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, GLM, MiniMax, Hunyuan and most others
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # Gemini's OpenAI adapter, EXAONE
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<mm:think>", "</mm:think>"),  # MiniMax-M3
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),  # Kimi-K3
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker, Sky-T1
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    HARMONY,
)

_WRAPPERS: tuple[Mark, ...] = (
    ("<answer>", "</answer>"),
    ("<response>", "</response>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
)
"""What some models put around the answer that follows their thoughts."""
_QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」"}
_FENCE = re.compile(r"^[ \t]{0,3}(```+|~~~+)([^\n]*)$", re.MULTILINE)
_IN_A_SENTENCE = re.compile(r"[\w,] \Z"), re.compile(r" [a-z]|[.,;:!?)](?:\s|\Z)")
"""What stands before and after a closing mark that a sentence is about: "The </think> tag ends the thoughts."."""
_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*([a-z]+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_CHANNEL_END = re.compile(r"(?:<\|(?:end|return|call)\|>\s*)?(?:<\|start\|>\s*assistant\s*)?\Z")
_BARE_CHANNELS = re.compile(r"\s*analysis(?:(?=\S)(.*?)assistantfinal|(?=[A-Z])(.*)\Z)", re.DOTALL)
"""Channels of which a server has dropped the special tokens: `analysisWe need …assistantfinal4`."""


class Split(NamedTuple):
    """Thoughts (None if there are none), the answer, and whether the thoughts were closed."""

    thoughts: str | None
    answer: str
    complete: bool


def split_thoughts(text: str, marks: Sequence[Mark] = DEFAULT_MARKS) -> Split:
    """The thoughts that a text begins with and the answer after them.

    A text without thoughts comes back as it is. `complete` is False, and the answer empty, if thoughts are opened and
    never closed. Of several blocks of thoughts in a row all are cut.
    """
    if HARMONY in marks and (channels := _split_channels(text)) is not None:
        return channels
    thoughts: list[str | None] = []
    complete, block = True, _split_opened(text, marks) or _split_closed(text, marks)
    while block is not None:
        said, text, complete = block
        thoughts.append(said)
        block = _split_opened(text, marks) if complete else None
    return Split("\n\n".join(filter(None, thoughts)) or None, text, complete)


def _split_opened(text: str, marks: Sequence[Mark]) -> Split | None:
    """A block of thoughts that the text opens, or None."""
    stripped = text.lstrip("\ufeff \t\r\n")
    for opening, closing in sorted(marks, key=lambda mark: -len(mark[0])):
        if stripped[: len(opening)].lower() == opening.lower():
            rest = stripped[len(opening) :]
            end = _end(rest, opening, closing, opened=True)
            if end is None:
                return Split(rest.strip() or None, "", False)
            return _cut(rest, end)
    return None


def _split_closed(text: str, marks: Sequence[Mark]) -> Split | None:
    """A block of thoughts that the prompt opened and the text closes, or None."""
    for opening, closing in marks:
        if (end := _end(text, opening, closing, opened=False)) is not None:
            return _cut(text, end)
    return None


def _cut(text: str, end: re.Match[str]) -> Split:
    answer = text[end.end() :].lstrip()
    for before, after in _WRAPPERS:
        if answer.startswith(before):
            answer = answer[len(before) :].strip()
            answer = answer.removesuffix(after).rstrip()
    return Split(text[: end.start()].strip() or None, answer, True)


def _end(text: str, opening: str, closing: str, opened: bool) -> re.Match[str] | None:
    """The closing mark that ends the thoughts: the last one that closes no opening mark of the text.

    Thoughts may name the marks, and so may the answer, as code does. Marks that are quoted or in code do not count; but
    opened thoughts that left a code block open are ended by a mark in it.
    """
    found = list(re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text, re.IGNORECASE))
    if not any(_closes(tag, closing) for tag in found):
        return None
    spoken = [tag for tag in found if not _quoted(text, tag)]
    fences = list(_fences(text))
    plain = [tag for tag in spoken if not any(start <= tag.start() < stop for start, stop in fences)]
    end = _unmatched(plain, closing)
    if end is None and opened:
        end = _unmatched(spoken, closing)
    if end is None and opened:
        # Thoughts that name the opening mark: whatever closes one ends them.
        end = next((tag for tag in spoken if _closes(tag, closing)), None)
    return end


def _unmatched(tags: Sequence[re.Match[str]], closing: str) -> re.Match[str] | None:
    end, depth = None, 0
    for tag in tags:
        if not _closes(tag, closing):
            depth += 1
        elif depth:
            depth -= 1
        else:
            end = tag
    return end


def _closes(tag: re.Match[str], closing: str) -> bool:
    return tag[0].lower() == closing.lower()


def _quoted(text: str, tag: re.Match[str]) -> bool:
    """Whether a mark is quoted, in a line's code, or a word of a sentence."""
    before, after = text[: tag.start()], text[tag.end() :]
    if before and _QUOTES.get(before[-1]) == after[:1]:
        return True
    line = before[before.rfind("\n") + 1 :]
    if line.count("`") % 2 and "`" in after.partition("\n")[0]:
        return True
    previous, following = _IN_A_SENTENCE
    return previous.search(before) is not None and following.match(after) is not None


def _fences(text: str) -> Iterator[tuple[int, int]]:
    """Where the text's blocks of code begin and end; one that is never closed goes to the end."""
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2].strip():
            yield opened.start(), fence.end()
            opened = None
    if opened is not None:
        yield opened.start(), len(text)


def _split_channels(text: str) -> Split | None:
    """A text in harmony's channels, with or without its special tokens; None for any other."""
    headers = list(_CHANNEL.finditer(text))
    prompt_opened = headers and _CHANNEL_END.search(text[: headers[0].start()])
    if not headers or not (text[: headers[0].start()].strip() == "" or (prompt_opened and prompt_opened[0])):
        bare = _BARE_CHANNELS.match(text)
        if bare is None:
            return None
        complete = bare[1] is not None
        return Split((bare[1] or bare[2] or "").strip() or None, text[bare.end() :].strip(), complete)
    thoughts, answer = [_content(text[: headers[0].start()])], None
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        content = _content(text[header.end() : following.start() if following else len(text)])
        if header[1] == "final":
            answer = content
        else:
            thoughts.append(content)
    said = "\n\n".join(filter(None, thoughts)) or None
    return Split(said, answer or "", answer is not None)


def _content(message: str) -> str:
    return _CHANNEL_END.sub("", message).strip()
