"""Reads the turns of a recorded conversation, in any of the shapes that public datasets use.

    turns = read_turns([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "conversations")
    turns[1].role, turns[1].content, turns[1].learn        # "assistant", "a", True

A turn is one of:
- an object with a role and a text (`role`/`content`, `from`/`value`);
- an object with both sides of an exchange (`{"human": …, "assistant": …}`);
- a bare text: user and assistant alternate, the user first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tapir_ray.data.schemas import Message
from tapir_ray.data.thoughts import UNFINISHED_THINKING, split_thoughts
from tapir_ray.data.values import is_blank

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), USER),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatbot", "ai"), ASSISTANT),
    **dict.fromkeys(("bing", "chatgpt", "bard", "claude"), ASSISTANT),
    **dict.fromkeys(("system", "developer"), SYSTEM),
}  # fmt: skip
"""Roles by the names that datasets give them; case does not matter."""
TOOL_ROLES = {
    "tool", "tools", "function", "observation", "function_call", "function-call", "tool_call", "tool_calls",
    "tool_response", "function_response", "function-response", "ipython",
}  # fmt: skip
SIDES = {**ROLES, **dict.fromkeys(("input", "question", "prompt"), USER)}
SIDES |= dict.fromkeys(("output", "answer", "response"), ASSISTANT)
"""Roles by the keys of an object that holds an exchange."""
ROLE_KEYS, TEXT_KEYS = ("role", "from", "speaker", "author"), ("content", "value", "text", "message")
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thoughts", "thought")
WEIGHT = "weight"
TRAIN_KEYS = ("train", "training", "train_on_turn", "loss", "trainable", "loss_mask", "calculate_loss")
"""Keys that, like `weight`, say if an assistant turn is trained on (true, false, 0, 1); `masked` is the opposite."""
MASKED = "masked"
PARTLY = "train_detail"
"""Key of axolotl that selects the characters of an answer to train on; not supported."""
CALL_KEYS = ("tool_calls", "function_call", "tool_call")
REPLIES = "replies"
TEXT_PARTS, THOUGHT_PARTS = ("text", "input_text", "output_text"), ("thinking", "reasoning")
CALL_PARTS = ("tool_use", "tool_result", "tool_call", "function_call")


class Malformed(ValueError):
    """A row that does not follow its format; the text says what is missing."""

    reason = "malformed"


class Unsupported(ValueError):
    """A well-formed row that cannot be represented (tool calls, images); the text is the reason it is filtered for."""

    reason = "unsupported"


@dataclass(frozen=True)
class Turn:
    """One turn. `learn` is False for an answer of weight 0, which is only context; `others` holds its other keys."""

    role: str
    content: str
    reasoning: str | None = None
    learn: bool = True
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> Message:
        return {"role": self.role, "content": self.content}


def read_turns(raw: Any, name: str) -> list[Turn]:
    """The turns in the column `name`, with thoughts split from the answers.

    Raises Malformed (also for an empty user turn) and Unsupported (`tool_calls`, `not_text`, `unfinished_thinking`).
    """
    if not isinstance(raw, list) or not raw:
        raise Malformed(f"{name} is not a list of turns")
    # A list of texts in a column `turns` is an MT-Bench question: every text is the user's.
    if all(isinstance(one, str) for one in raw) and name != "turns":
        raw = [{"role": (USER, ASSISTANT)[at % 2], "content": text} for at, text in enumerate(raw)]
    turns = [turn for one in raw for turn in _read(one, name)]
    if not turns:
        raise Malformed(f"{name} has no turn with text")
    return turns


def split_answer(text: str, reasoning: str | None = None) -> tuple[str, str | None]:
    """(answer, thoughts) of a recorded answer; those of `reasoning` come before the ones found in the text.

    Raises Unsupported for thoughts that are opened and never closed, because nothing marks where the answer begins.
    """
    thoughts, answer, complete = split_thoughts(text)
    if not complete:
        raise Unsupported(f"{UNFINISHED_THINKING} (thoughts that are opened and not closed)")
    # Without duplicates: some datasets repeat the thoughts of the field in the text.
    return answer, "\n\n".join(dict.fromkeys(one for one in (reasoning, thoughts) if one)) or None


def _read(turn: Any, name: str) -> Iterator[Turn]:
    if not isinstance(turn, dict):
        raise Malformed(f"a turn of {name} is not an object")
    if any(not is_blank(turn.get(key)) for key in CALL_KEYS):
        raise Unsupported("tool_calls")
    if not is_blank(turn.get(REPLIES)):
        raise Unsupported(f"{REPLIES} (a turn of {name} is a tree; write a row for each conversation, with messages)")
    role_key = next((key for key in ROLE_KEYS if not is_blank(turn.get(key))), None)
    if role_key is None:
        yield from _exchange(turn, name)
        return
    text_key = next((key for key in TEXT_KEYS if turn.get(key) is not None), None)
    raw_role, content = turn[role_key], None if text_key is None else turn[text_key]
    role = raw_role.strip().casefold() if isinstance(raw_role, str) else ""
    if role in TOOL_ROLES:
        raise Unsupported("tool_calls")
    if role not in ROLES:
        raise Malformed(f"a turn of {name} has role {raw_role!r} and content of type {type(content).__name__}")
    role = ROLES[role]
    text, thoughts = _text_of(content, name, raw_role)
    if role == USER and not text.strip():
        raise Malformed(f"a user turn of {name} is empty")
    used, learn = {role_key, text_key}, True
    if role == ASSISTANT:
        key = next((key for key in THOUGHT_KEYS if isinstance(turn.get(key), str) and turn[key].strip()), None)
        if key is not None:
            used, thoughts = {*used, key}, "\n\n".join([turn[key].strip(), *([thoughts] if thoughts else [])])
        text, thoughts = split_answer(text, thoughts)
        learn = _is_learnt(turn)
    elif thoughts:
        # Thoughts are kept apart for answers alone; those of a user or system turn are part of its text.
        text, thoughts = f"{thoughts}\n\n{text}" if text else thoughts, None
        used |= {WEIGHT, MASKED, *TRAIN_KEYS}
    used.add(WEIGHT)
    others = {key: value for key, value in turn.items() if key not in used and not is_blank(value)}
    # An empty system turn says the same as none.
    if role != SYSTEM or text.strip() or others:
        yield Turn(role, text, thoughts, learn, others)


def _exchange(turn: dict[str, Any], name: str) -> Iterator[Turn]:
    """The turns of an object such as `{"human": …, "assistant": …}`, in the order system, user, assistant."""
    sides: dict[str, tuple[str, Any]] = {}
    for key, value in turn.items():
        side = SIDES.get(key.strip().casefold())
        if side is not None and side not in sides and value is not None:
            sides[side] = (key, value)
    if USER not in sides and ASSISTANT not in sides:
        known = ", ".join(turn) or "no key"
        raise Malformed(f"a turn of {name} has no known role or content key (it has {known})")
    used = {key for key, _ in sides.values()}
    others = {key: value for key, value in turn.items() if key not in used}
    *first, last = (side for side in (SYSTEM, USER, ASSISTANT) if side in sides)
    # They would be overwritten below, and a text be lost without a word.
    for key in ("role", "content"):
        if not is_blank(others.get(key)):
            raise Malformed(f"a turn of {name} has both {key} and {sides[last][0]}: leave one of them out")
    for side in first:
        yield from _read({"role": side, "content": sides[side][1]}, name)
    yield from _read({**others, "role": last, "content": sides[last][1]}, name)


def _is_learnt(turn: dict[str, Any]) -> bool:
    marks = {key: turn[key] for key in (WEIGHT, *TRAIN_KEYS, MASKED) if turn.get(key) is not None}
    for key, value in marks.items():
        if not (isinstance(value, int | float) and value in (0, 1)):
            raise Unsupported(f"{key} {value!r} of a turn (it can be 0 or 1)")
    if not is_blank(turn.get(PARTLY)):
        raise Unsupported(f"{PARTLY} (an answer of which a part is in no loss)")
    return not marks.pop(MASKED, 0) and all(value != 0 for value in marks.values())


def _text_of(content: Any, name: str, role: Any) -> tuple[str, str | None]:
    """(text, thoughts) of a turn's content, which is a text, null, or parts. Raises Malformed or Unsupported."""
    if content is None:
        return "", None
    if isinstance(content, str):
        return content, None
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise Malformed(f"a turn of {name} has role {role!r} and content of type {type(content).__name__}")
    texts, thoughts = [], []
    for part in content:
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        kind = part.get("type") or "text" if isinstance(part, dict) else None
        if kind in CALL_PARTS:
            raise Unsupported("tool_calls")
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in THOUGHT_PARTS and (
            found := [part[key] for key in (kind, "text") if isinstance(part.get(key), str)]
        ):
            thoughts.append(found[0])
        else:
            raise Unsupported("not_text")
    return joined(texts), joined(thoughts).strip() or None


def joined(texts: Sequence[str]) -> str:
    """The parts as one text, with a new line between two that have no white space there."""
    whole = ""
    for text in texts:
        apart = whole and text and not whole[-1].isspace() and not text[0].isspace()
        whole += ("\n" if apart else "") + text
    return whole
