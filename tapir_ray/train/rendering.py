"""Renders conversations with a chat template, and checks that no text is lost.

    template = ChatTemplate(tokenizer, chat_template_kwargs)
    turns = template.as_text(messages)                   # control tokens in the contents are broken
    text = template.render(turns, for_answer=True)       # raises TemplateRefused

A template may strip leading and trailing white space of a turn, as most do. Everything else must appear in its text.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2

from tapir_ray.data.schemas import Message
from tapir_ray.data.values import one_line
from tapir_ray.train.control_tokens import BREAK, ControlTokens, RowRefused

THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""Marks around a model's thoughts. At the start of an answer they are control tokens, elsewhere text."""

_SHOWN = 60
"""Most characters of a lost text that a reason quotes."""


class TemplateRefused(RowRefused):
    """A conversation that the chat template rejects (a system turn, roles that do not alternate) or loses part of.

    The text is the template's own message, if it has one.
    """

    @property
    def reason(self) -> str:
        """The `reason` of a filtered row."""
        return f"template_refused: {self}"


class ChatTemplate:
    """The chat template of a tokenizer, with its arguments."""

    def __init__(self, tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> None:
        self._tokenizer, self._kwargs = tokenizer, chat_template_kwargs
        # A template may also compose marks from pieces, which only rendered probes show, or take them from arguments.
        written = [str(tokenizer.chat_template), json.dumps(chat_template_kwargs, default=str, ensure_ascii=False)]
        shown = list(self._shown_probes())
        self.control = ControlTokens(tokenizer, "\n".join([*written, *shown]))
        self._apart = not any(self._joins(text) for text in shown)

    @functools.cached_property
    def opened(self) -> tuple[str, str] | None:
        """(opening mark, text that closes the thoughts without any) if the prompt opens thoughts; else None."""
        try:
            shown = self._render([{"role": "user", "content": _probe(0)}], add_generation_prompt=True)
        except Exception:  # A template is the model's own code: it may refuse a lone user turn with any error.
            return None
        after = shown.rpartition(_probe(0))[2]
        for opening, closing in THOUGHTS:
            _, found, rest = after.rpartition(opening)
            if found and closing not in rest:
                blank = "\n\n".removeprefix(rest) if "\n\n".startswith(rest) else ""
                return opening, f"{blank}{closing}\n\n"
        return None

    def as_text(self, turns: Sequence[Message]) -> list[Message]:
        """The turns with all control tokens in their contents broken, except the marks of an answer's thoughts.

        Raises SpecialToken.
        """
        return [{**turn, "content": self._content(turn)} for turn in turns]

    def render(self, turns: Sequence[Message], for_answer: bool) -> str:
        """The text of turns returned by `as_text`; with `for_answer` it ends with the start of the next answer.

        Raises TemplateRefused if the template rejects the turns, or leaves out or changes part of one. Thoughts of
        answers may be left out. Without `for_answer` the last turn is not checked; the caller checks it.
        """
        try:
            text = self._render(turns, add_generation_prompt=for_answer)
        except jinja2.TemplateSyntaxError:
            raise  # no fault of this row: `end_of_turn` reports it
        except jinja2.TemplateError as error:
            raise TemplateRefused(one_line(error)[:200]) from None
        except Exception as error:  # the template's code may raise anything
            raise TemplateRefused(f"{type(error).__name__}: {one_line(error)}"[:200]) from None
        for turn in turns if for_answer else turns[:-1]:
            content = turn["content"]
            answer = split_thoughts(content, self._opening)[-1] if turn["role"] == "assistant" else content
            if answer.strip() not in text:
                lost = " ".join(answer.replace(BREAK, "").split())
                raise TemplateRefused(
                    f"the chat template leaves out or changes part of the {turn['role']} turn "
                    f"{lost[:_SHOWN]!r}{'…' if len(lost) > _SHOWN else ''}"
                )
        return text

    def holds(self, continued: str, answer: str) -> bool:
        """Returns whether `continued`, the text after a prompt, has all of `answer` outside open thoughts."""
        opening, thoughts, _, rest = split_thoughts(answer, self._opening)
        place = continued.find(thoughts.strip())
        if place < 0:
            return False
        if self.opened is not None:
            if opening and self._opening in continued[:place]:
                return False  # the template opens the thoughts a second time
            place = continued.find(dict(THOUGHTS)[self._opening], place)
        return place >= 0 and continued.find(rest.strip(), place) >= 0

    def closed(self, answer: str) -> str:
        """An answer of `as_text` in the form in which it follows the prompt: closes thoughts that the prompt opens."""
        if self.opened is None:
            return answer
        opening, closing = self.opened
        first, thoughts, ended, rest = split_thoughts(answer, opening)
        if not ended or first.strip() not in ("", opening):
            return closing + answer
        return f"{thoughts.lstrip() if first else thoughts}{ended}{rest}"

    @property
    def _opening(self) -> str:
        return self.opened[0] if self.opened is not None else ""

    def _render(self, turns: Sequence[Message], add_generation_prompt: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=add_generation_prompt, **self._kwargs
            )
        )

    def _content(self, turn: Message) -> str:
        content = turn["content"]
        if turn["role"] != "assistant":
            return self._broken(content)
        opening, thoughts, closing, answer = split_thoughts(content, self._opening)
        return opening + self._broken(thoughts) + closing + self._broken(answer)

    def _broken(self, text: str) -> str:
        broken = self.control.broken(text)
        if self._apart or not broken.strip():
            return broken
        # Text of the template next to this one could complete a control token with it, so break at both ends.
        inside = broken.strip()
        start = broken.index(inside)
        return f"{broken[:start]}{BREAK}{inside}{BREAK}{broken[start + len(inside) :]}"

    def _shown_probes(self) -> Iterator[str]:
        """Yields the template's text of some probe conversations, without those that it rejects."""
        roles = ["user", "assistant", "user", "assistant"]
        for turns in (["system", *roles], roles, roles[:2]):
            messages = [{"role": role, "content": _probe(place)} for place, role in enumerate(turns)]
            for number in (len(messages), len(messages) - 1):
                try:
                    yield self._render(messages[:number], add_generation_prompt=number < len(messages))
                except Exception:  # `check_template` and `render` report what the template rejects
                    continue

    def _joins(self, shown: str) -> bool:
        places = [shown.find(_probe(number)) for number in range(5)]
        inner = sorted(place for place in places if place >= 0)
        ends = [place + len(_probe(0)) for place in inner]
        adjacent = any(end == place for end, place in zip(ends, inner[1:], strict=False))
        return adjacent or any(
            self.control.joins(shown[:place], shown[end:]) for place, end in zip(inner, ends, strict=True)
        )


def split_thoughts(answer: str, opened: str = "") -> tuple[str, str, str, str]:
    """(opening mark, thoughts, closing mark, answer) of a text that begins with thoughts; else ("", "", "", text).

    The opening mark may be missing if it is `opened`, the one that the prompt ends with.
    """
    start = len(answer) - len(answer.lstrip())
    for opening, closing in THOUGHTS:
        begins = answer.startswith(opening, start)
        if not begins and opening != opened:
            continue
        first = start + len(opening) if begins else 0
        end = answer.find(closing, first)
        if end >= 0:
            return answer[:first], answer[first:end], closing, answer[end + len(closing) :]
    return "", "", "", answer


def _probe(number: int) -> str:
    """A text that no template contains."""
    return f"5f2c91{number}"


def chat_template_of(tokenizer: Any, chat_template_kwargs: dict[str, Any]) -> ChatTemplate:
    """The ChatTemplate of a tokenizer in its current state, cached."""
    key = (str(tokenizer.chat_template), len(tokenizer), json.dumps(chat_template_kwargs, sort_keys=True, default=str))
    # Cached on the tokenizer, so that both are freed together.
    made: dict[Any, ChatTemplate] = vars(tokenizer).setdefault("_tapir_templates", {})
    if key not in made:
        made[key] = ChatTemplate(tokenizer, chat_template_kwargs)
    return made[key]
