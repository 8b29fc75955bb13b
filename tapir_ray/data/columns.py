"""Finds the columns of a row by role (prompt, answer, …); holds the only table of column names (see docs/data.md).

    found = by_role({"instruction": "Add.", "input": "1 2", "output": "3"}, {})
    found["prompt"], found["context"]       # {"instruction": "Add."}, {"input": "1 2"}

Names are compared without case, white space and punctuation: `System Prompt` is `system_prompt`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tapir_ray.data.values import is_blank

MESSAGES, SYSTEM, HISTORY, PROMPT = "messages", "system", "history", "prompt"
CONTEXT, CHOICES, RESPONSE, REASONING, META = "context", "choices", "response", "reasoning", "meta"

NAMES: dict[str, tuple[str, ...]] = {
    MESSAGES: ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat"),
    SYSTEM: ("system", "system_prompt", "system_message"),
    HISTORY: ("history",),
    PROMPT: ("instruction", "prompt", "question", "query", "problem", "inputs", "question_stem"),
    CONTEXT: (
        "context", "contexts", "passage", "passages", "document", "documents", "article", "paragraph", "background",
        "story", "evidence", "support",
    ),
    CHOICES: ("choices", "options"),
    RESPONSE: (
        "output", "response", "answer", "completion", "target", "targets", "solution", "generated_solution", "chosen",
        "answers",
    ),
    REASONING: (
        "reasoning", "reasoning_content", "thinking", "thoughts", "thought", "rationale", "chain_of_thought", "cot",
        "complex_cot",
    ),
}  # fmt: skip
"""Names by role. A row with two different columns for the prompt or the answer is ambiguous: the user must choose."""

FALLBACK: dict[str, tuple[str, ...]] = {
    PROMPT: ("user", "human", "text"),
    RESPONSE: ("assistant", "gpt", "bot", "correct_answer", "answer_key", "correct"),
}
"""Names that are read only in a row without any of NAMES for the role."""

INPUT, INSTRUCTION = "input", "instruction"
"""`input` is the context of an `instruction` (Alpaca); without one it is a prompt."""

ROLES = (*NAMES, META)
"""`meta` has no names of its own: columns that a user maps to it are kept and not used."""

Mapped = Mapping[str, Sequence[str]]
"""Columns by role, as given in `seed_data.columns`; NAMES do not apply to these roles."""

_NO_NAME = re.compile(r"[\W_]+")
_FALLBACK = "fallback "


@functools.lru_cache(maxsize=8192)
def plain_name(column: str) -> str:
    """The name in lower case, without white space and punctuation: `System Prompt` becomes `systemprompt`."""
    return _NO_NAME.sub("", column).lower()


_PLACES: dict[str, tuple[str, int]] = {
    plain_name(name): (prefix + role, rank)
    for prefix, table in (("", NAMES), (_FALLBACK, FALLBACK))
    for role, names in table.items()
    for rank, name in enumerate(names)
}


def by_role(row: Mapping[str, Any], mapped: Mapped) -> dict[str, dict[str, Any]]:
    """The columns of a row that are not blank, by role, in the order of the table.

    Columns of FALLBACK appear only for roles without any of NAMES. A column that the user maps has no other role.
    """
    given = {column: role for role, columns in mapped.items() for column in columns}
    found: dict[str, list[tuple[int, str]]] = {}
    is_alpaca = False
    inputs = []
    for column, value in row.items():
        if is_blank(value):
            continue
        name = plain_name(column)
        if column in given:
            role = given[column]
            found.setdefault(role, []).append((mapped[role].index(column), column))
            # A mapped `instruction` makes `input` its context only if it is the prompt.
            is_alpaca = is_alpaca or (role == PROMPT and name == INSTRUCTION)
        elif name == INPUT:
            inputs.append(column)
        elif (place := _PLACES.get(name)) is not None:
            role, rank = place
            if role.removeprefix(_FALLBACK) not in mapped:
                found.setdefault(role, []).append((rank, column))
                is_alpaca = is_alpaca or name == INSTRUCTION
    for column in inputs:
        role = CONTEXT if is_alpaca else PROMPT
        # As a context it comes first (rank -1), as a prompt after every other name.
        if role not in mapped:
            found.setdefault(role, []).append((-1 if is_alpaca else len(NAMES[PROMPT]), column))
    for role in FALLBACK:
        others = found.pop(_FALLBACK + role, [])
        if role not in found and others:
            found[role] = others
    return {role: {column: row[column] for _, column in sorted(found.get(role, []))} for role in NAMES}


def is_first_choice(column: str, role: str) -> bool:
    """Returns whether a name is in NAMES for a role; a name of FALLBACK is not."""
    return _PLACES.get(plain_name(column), (None,))[0] == role


def role_of(column: str) -> str | None:
    """The role of a column name, or None if the table does not have it; `input` counts as a prompt."""
    if plain_name(column) == INPUT:
        return PROMPT
    place = _PLACES.get(plain_name(column))
    return place[0].removeprefix(_FALLBACK) if place else None


def effective(mapped: Mapped, format: str) -> dict[str, Sequence[str]]:
    """The columns by role that a user gives, completed by those that `seed_data.format` implies.

    `effective({}, "alpaca")` is `{"prompt": ("instruction",), "messages": ()}`: an empty tuple switches a role off.
    """
    given: dict[str, Sequence[str]] = dict(mapped)
    if format == "alpaca":
        given.setdefault(PROMPT, (INSTRUCTION,))
    elif format == "prompt":
        given.setdefault(MESSAGES, ())
        if PROMPT not in given:
            given[META] = (*given.get(META, ()), INSTRUCTION)
    elif format in ("messages", "sharegpt"):
        given.setdefault(MESSAGES, NAMES[MESSAGES][:1] if format == "messages" else NAMES[MESSAGES][1:])
    if given.get(PROMPT):
        given.setdefault(MESSAGES, ())
    return given
