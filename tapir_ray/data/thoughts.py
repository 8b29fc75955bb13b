"""Separates a model's thoughts from its answer by the marks around them. Imports nothing but the standard library.

    split_thoughts("<think>2 + 2</think>4")            # ("2 + 2", "4", True)
    split_thoughts("[THINK]2 + 2")                     # ("2 + 2", "", False): cut off while thinking

Only thoughts at the beginning are split off. The opening mark may be missing, because some chat templates put it into
the prompt (DeepSeek-R1, Qwen3). A mark that is quoted, in code or in the middle of a sentence belongs to the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Mark = tuple[str, str]
"""(opening, closing) mark of thoughts."""

UNFINISHED_THINKING = "unfinished_thinking"
"""Reason of a failed row with an answer cut off inside its thoughts."""
HARMONY: Mark = ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")
"""Channels of gpt-oss: everything before the `final` channel is thoughts."""
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
"""Marks that some models put around the answer after their thoughts."""
_QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」"}
_FENCE = re.compile(r"^[ \t]{0,3}(```+|~~~+)([^\n]*)$", re.MULTILINE)
_IN_A_SENTENCE = re.compile(r"[\w,] \Z"), re.compile(r" [a-z]|[.,;:!?)](?:\s|\Z)")
"""Text before and after a closing mark that is a word of a sentence: "The </think> tag ends the thoughts."."""
_CHANNEL = re.compile(
    r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*([a-z]+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_CHANNEL_END = re.compile(r"(?:<\|(?:end|return|call)\|>\s*)?(?:<\|start\|>\s*assistant\s*)?\Z")
_BARE_CHANNELS = re.compile(r"\s*analysis(?:(?=\S)(.*?)assistantfinal|(?=[A-Z])(.*)\Z)", re.DOTALL)
"""Channels after a server has dropped their special tokens: `analysisWe need …assistantfinal4`."""


class Split(NamedTuple):
    """Thoughts (None without any), the answer, and `complete`: False if thoughts were opened and not closed."""

    thoughts: str | None
    answer: str
    complete: bool


def split_thoughts(text: str, marks: Sequence[Mark] = DEFAULT_MARKS) -> Split:
    """Splits a text into the thoughts at its beginning and the answer after them.

    A text without thoughts is returned unchanged as the answer. If thoughts are opened and never closed, `complete` is
    False and the answer is empty. Several blocks of thoughts in a row are joined.
    """
    if HARMONY in marks and (channels := _split_channels(text)) is not None:
        return channels
    thoughts: list[str | None] = []
    complete, block = True, _split_opened(text, marks) or _split_closed(text, marks)
    while block is not None:
        thought, text, complete = block
        thoughts.append(thought)
        block = _split_opened(text, marks) if complete else None
    return Split("\n\n".join(filter(None, thoughts)) or None, text, complete)


def _split_opened(text: str, marks: Sequence[Mark]) -> Split | None:
    """Splits off a block of thoughts that the text opens; None without one."""
    stripped = text.lstrip("\ufeff \t\r\n")
    # Longest mark first, in case one mark begins with another.
    for opening, closing in sorted(marks, key=lambda mark: -len(mark[0])):
        if stripped[: len(opening)].lower() == opening.lower():
            rest = stripped[len(opening) :]
            end = _end(rest, opening, closing, opened=True)
            if end is None:
                return Split(rest.strip() or None, "", False)
            return _cut(rest, end)
    return None


def _split_closed(text: str, marks: Sequence[Mark]) -> Split | None:
    """Splits off a block of thoughts that the prompt opened and the text closes; None without one."""
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
    """The closing mark that ends the thoughts: the last one without a matching opening mark in the text.

    Thoughts and answer may both mention the marks, so those that are quoted or in code do not count. The exception are
    opened thoughts with an unclosed code block: a mark in that block ends them.
    """
    found = list(re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text, re.IGNORECASE))
    if not any(_closes(tag, closing) for tag in found):
        return None
    spoken = [tag for tag in found if not _quoted(text, tag)]
    fences = list(_fences(text))
    plain = [tag for tag in spoken if not any(start <= tag.start() < stop for start, stop in fences)]
    end = _unmatched(plain, closing)
    if end is None and opened:  # thoughts with a code block that is not closed
        end = _unmatched(spoken, closing)
    if end is None and opened:
        # Thoughts that mention the opening mark without closing it: the first closing mark ends them.
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
    """Returns whether a mark is quoted, in inline code, or a word of a sentence."""
    before, after = text[: tag.start()], text[tag.end() :]
    if before and _QUOTES.get(before[-1]) == after[:1]:
        return True
    line = before[before.rfind("\n") + 1 :]
    if line.count("`") % 2 and "`" in after.partition("\n")[0]:
        return True
    previous, following = _IN_A_SENTENCE
    return previous.search(before) is not None and following.match(after) is not None


def _fences(text: str) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of each fenced code block; an unclosed one reaches to the end of the text."""
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
    """Splits a text in gpt-oss's channels (harmony), with or without their special tokens; None for any other text."""
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
    return Split("\n\n".join(filter(None, thoughts)) or None, answer or "", answer is not None)


def _content(message: str) -> str:
    return _CHANNEL_END.sub("", message).strip()
