"""Converts a row of instruction data, in any of the usual formats, to conversations.

    conversations = parse(row, format="auto", turns="last")

Formats:
- conversations: OpenAI `messages`, ShareGPT `conversations`, TRL;
- columns: Alpaca, prompt and completion, question and answer, prompts alone.

`columns.py` has the names of the columns, docs/data.md the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tapir_ray.data.chat_turns import ASSISTANT, SYSTEM, Malformed, Turn, Unsupported
from tapir_ray.data.column_reading import Ambiguous, NoPrompt, Reading
from tapir_ray.data.columns import REASONING, RESPONSE, Mapped, role_of
from tapir_ray.data.readers import Unreadable
from tapir_ray.data.schemas import Message
from tapir_ray.data.transcripts import is_transcript
from tapir_ray.data.values import plain

__all__ = ["Ambiguous", "Conversation", "Malformed", "Unsupported", "object_of", "parse", "parse_evaluation"]

MT_BENCH = "turns"
TRANSCRIPT = "transcript (the prompt is a whole conversation in one text; write it as a list of messages)"
NOT_TRAINED = "not_trained (every answer has weight 0)"


@dataclass(frozen=True)
class Conversation:
    """The context, the assistant turn to learn (None in a row with only a prompt), and the row's other columns."""

    messages: list[Message]
    response: str | None
    meta: dict[str, Any] = field(default_factory=dict)
    reasoning: str | None = None
    """Thoughts before the response."""
    masked_turns: tuple[int, ...] = ()
    """Positions in `messages` of answers of weight 0, which are masked out of the loss."""
    unused: tuple[str, ...] = ()
    """Columns with text that have no use."""


def parse(row: Any, format: str = "auto", turns: str = "last", columns: Mapped | None = None) -> list[Conversation]:
    """The conversations of one row: one, or with `turns="all"` one for each assistant turn and for an open last prompt.

    `columns` maps roles to column names. An answer of weight 0 is context. A blank response counts as none. `meta` has
    everything without a use: other columns, fields of turns (`turn_fields`), turns after the response (`later_turns`).

    Raises Ambiguous if two different columns could be the prompt or the answer, and Malformed, Unsupported or
    Unreadable.
    """
    found = _from_turns(Reading(object_of(row), columns or {}, format), turns)
    asked = [message["content"] for message in found[0].messages if message["role"] != SYSTEM]
    # With an answer of its own, a prompt may quote a transcript.
    if found[0].response is None and len(asked) == 1 and is_transcript(asked[0]):
        raise Unsupported(TRANSCRIPT)
    return found


def parse_evaluation(row: Any) -> list[Conversation]:
    """The texts of an evaluation set's row that must not be trained on, as conversations without responses.

    An MT-Bench question gives each of its `turns` separately, a conversation the context of every answer, any other row
    its prompt, or each of its prompts. Raises Malformed, Unsupported or Unreadable.
    """
    checked = object_of(row)
    asked = checked.get(MT_BENCH)
    if asked is not None and not (isinstance(asked, list) and asked and isinstance(asked[0], dict)):
        if not isinstance(asked, list) or not asked:
            raise Malformed("turns is not a list of texts")
        if any(not isinstance(turn, str) or not turn.strip() for turn in asked):
            raise Malformed("a turn of turns is empty or not text")
        return [Conversation([{"role": "user", "content": turn}], None) for turn in asked]
    kept = {name: value for name, value in checked.items() if role_of(name) not in (RESPONSE, REASONING)}
    try:
        reading = Reading(kept, {}, "auto")
    except NoPrompt as error:
        raise Malformed(f"{error.what}; rename the column of the questions to prompt") from None
    except Ambiguous as several:
        # Either column may be the question, so neither may be trained on.
        others = {name: set(several.names) - {name} for name in several.names}
        each = [{key: value for key, value in kept.items() if key not in left} for left in others.values()]
        return [conversation for one in each for conversation in parse_evaluation(one)]
    # Without the weights of turns: the context of every answer counts.
    reading.turns = [Turn(turn.role, turn.content, turn.reasoning) for turn in reading.turns]
    return [Conversation(one.messages, None, one.meta) for one in _from_turns(reading, "all")]


def object_of(row: Any) -> dict[str, Any]:
    """Returns a row of `read_raw` as an object of JSON values. Raises Malformed or Unreadable if it is not one."""
    if isinstance(row, Unreadable):
        raise row
    if isinstance(row, Exception):
        raise Malformed(f"not valid JSON ({row})")
    if not isinstance(row, dict):
        raise Malformed("not an object with named columns")
    try:
        checked: dict[str, Any] = plain(row)
    except ValueError as error:
        raise Malformed(str(error)) from None
    return checked


def _from_turns(reading: Reading, which: str) -> list[Conversation]:
    turns = reading.turns
    asked = next(index for index, turn in enumerate(turns) if turn.role == "user")
    answers = [index for index, turn in enumerate(turns) if turn.role == ASSISTANT]
    is_open = any(turn.role == "user" for turn in turns[answers[-1] + 1 if answers else 0 :])
    # An answer before the first question, such as a greeting, is context.
    ends = [index for index in answers if index > asked and turns[index].learn]
    ends += [len(turns)] if is_open else []
    if not ends:
        raise Unsupported(NOT_TRAINED)
    found = [_conversation(reading, end, later=turns[end + 1 :] if end == ends[-1] else []) for end in ends]
    return found if which == "all" else found[-1:]


def _conversation(reading: Reading, end: int, later: Sequence[Turn]) -> Conversation:
    """The conversation of the turns before `end` and the answer at `end`, if it has one."""
    context, answer = reading.turns[:end], reading.turns[end] if end < len(reading.turns) else None
    thoughts = [{"reasoning": turn.reasoning} if turn.reasoning else {} for turn in context]
    fields = [
        {"turn": at, **turn.others, **(thoughts[at] if at < end else {})}
        for at, turn in enumerate(reading.turns[: end + 1])
        if turn.others or (at < end and turn.reasoning)
    ]
    meta = {**reading.meta, **({"turn_fields": fields} if fields else {})}
    if later:
        meta["later_turns"] = [{**turn.others, **turn.message, "reasoning": turn.reasoning} for turn in later]
    return Conversation(
        [turn.message for turn in context],
        answer.content if answer and answer.content.strip() else None,
        meta,
        answer.reasoning if answer else None,
        tuple(at for at, turn in enumerate(context) if turn.role == ASSISTANT and not turn.learn),
        reading.unused,
    )
