"""Reads the columns of one row as turns, and records which columns are used, repeated or unused.

reading = Reading({"question": "2 + 2?", "answer": "4", "notes": "easy"}, mapped={}, format="auto")
reading.turns       # [Turn("user", "2 + 2?"), Turn("assistant", "4")]
reading.unused      # ("notes",)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tapir_ray.data.chat_turns import (
    ASSISTANT,
    ROLES,
    SYSTEM,
    USER,
    Malformed,
    Turn,
    Unsupported,
    read_turns,
    split_answer,
)
from tapir_ray.data.choices import Option, chosen, labelled, shown
from tapir_ray.data.column_values import bare_thoughts, is_talk, key_of, listed, prompt_of, repeats, required_text
from tapir_ray.data.columns import (
    CHOICES,
    CONTEXT,
    HISTORY,
    INPUT,
    MESSAGES,
    META,
    PROMPT,
    REASONING,
    RESPONSE,
    Mapped,
    by_role,
    effective,
    is_first_choice,
    plain_name,
    role_of,
)
from tapir_ray.data.values import has_text, is_blank

NO_LOSS = "masked_turns"
"""Column written by `tapir regenerate`: positions in `messages` of the answers that are masked out of the loss."""
UNDESIRABLE = "undesirable (a completion with the label false)"
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
MEDIA_MARK = re.compile(r"<(?:image|audio|video)>")
FLAGS = {"on", "off", "yes", "no", "true", "false", "none", "null", "n/a", "low", "medium", "high"}
"""Values of a reasoning column that are a setting of the model (`reasoning: on`) and no thoughts."""
TEXT, ROLE, PARENT = "text", "role", "parent_id"
"""Columns of a dataset with one message a row, such as OpenAssistant."""
LABEL, COMPLETION, ANSWERS = "label", "completion", "answers"


class Ambiguous(Malformed):
    """A row with two different columns for one role; `names` are the columns."""

    reason = "ambiguous"

    def __init__(self, what: str, names: Sequence[str], settings: Sequence[str]) -> None:
        super().__init__(
            f"the columns {' and '.join(f'`{name}`' for name in names)} could both be the {what}, and they differ; "
            f"set seed_data.columns: {' or '.join(f'{{{setting}}}' for setting in settings)}"
        )
        self.names = tuple(names)


class NoPrompt(Malformed):
    """A row without a prompt column; `what` is the message without its advice."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; name yours in seed_data.columns")
        self.what = what


class Reading:
    """One row, read: its turns (`turns`), its other columns (`meta`), the names of those with text (`unused`)."""

    def __init__(self, row: dict[str, Any], mapped: Mapped, format: str) -> None:
        """Reads the row. Raises Ambiguous, Malformed or Unsupported."""
        self.row = row
        self.settled = bool(mapped.get(MESSAGES)) or format in ("messages", "sharegpt")
        """True if the config names the column of the conversation."""
        self.mapped = effective(mapped, format)
        self.found = by_role(row, self.mapped)
        self.used: set[str] = set()
        self.known = {*mapped.get(META, ())}
        """Columns that are not used and need no note."""
        lists = {name: listed(value) for name, value in self.found[MESSAGES].items()}
        talks = {name: value for name, value in lists.items() if isinstance(value, list)}
        if not talks and self.mapped.get(MESSAGES):
            name = self.mapped[MESSAGES][0]
            read_turns(row.get(name), name)  # raises the reason
        self.turns = self._without_loss(self._conversation(talks) if talks else self._exchange())
        if all(turn.role != USER for turn in self.turns):
            raise Malformed("no user turn")
        self._refuse_media()
        self.meta = {name: value for name, value in row.items() if self._is_kept(name, value)}
        self.unused = tuple(name for name in self.meta if name not in self.known and has_text(row[name]))

    def _refuse_media(self) -> None:
        """Raises Unsupported for a row with an image, sound or video: the text alone would miss its subject."""
        has_mark = any(MEDIA_MARK.search(turn.content) for turn in self.turns if turn.role == USER)
        for name, value in self.row.items():
            is_media = plain_name(name) in MEDIA and name not in self.used and name not in self.known
            # A text may be the address of a picture on a page that the question does not need.
            if is_media and not is_blank(value) and (has_mark or not isinstance(value, str | int | float)):
                raise Unsupported("not_text")

    def _is_kept(self, name: str, value: Any) -> bool:
        named = role_of(name) is not None and name not in self.known
        return name not in self.used and not (named and is_blank(value))

    def _conversation(self, talks: Mapping[str, Any]) -> list[Turn]:
        """The turns of a row that has a column of turns."""
        (name, raw), *others = talks.items()
        turns = read_turns(raw, name)
        self.used.add(name)
        for other, value in others:
            self._same_or_ask(other, value, turns, name, "conversation")
        turns = self._with_system(turns)
        for other, value in self.found[PROMPT].items():
            if is_first_choice(other, PROMPT):
                self._same_or_ask(other, value, turns, name, "prompt")
        # An open last question takes its answer from another column, as in TRL's prompt and completion.
        users = [at for at, turn in enumerate(turns) if turn.role == USER]
        answered = users and any(turn.role == ASSISTANT for turn in turns[users[-1] :])
        if not answered:
            return self._with_reasoning(self._answered(turns, name, []))
        for other, value in self.found[RESPONSE].items():
            if is_first_choice(other, RESPONSE):
                self._same_or_ask(other, value, turns, name, "answer")
        return self._with_reasoning(turns)

    def _same_or_ask(self, other: str, value: Any, turns: Sequence[Turn], name: str, what: str) -> None:
        """Marks a column that repeats the turns of the column `name` as known. Raises Ambiguous if its text differs."""
        if repeats(value, turns):
            self.known.add(other)
        elif not self.settled and (isinstance(value, str) or is_talk(value, other)):
            rest = f"{MESSAGES}: {other}" if what == "conversation" else f"{PROMPT}: …, {RESPONSE}: …"
            raise Ambiguous(what, (name, other), (f"{MESSAGES}: {name}", rest))

    def _exchange(self) -> list[Turn]:
        """The turns of a row without a conversation column: system, history, prompt, answer."""
        name, prompt = self._prompt()
        options = labelled(next(iter(self.found[CHOICES].values()), None)) or []
        if isinstance(prompt, str):
            asked = [Turn(USER, "\n\n".join([prompt, *self._contexts(prompt), *self._choices(options)]))]
        else:
            asked = prompt
        return self._with_reasoning(self._with_system(self._answered([*self._history(), *asked], name, options)))

    def _answered(self, asked: list[Turn], name: str | None, options: Sequence[Option]) -> list[Turn]:
        """The prompt's turns (of the column `name`) and the answer's, without those that the answer repeats."""
        answer = self._answer(options)
        if not answer or answer[0].role == ASSISTANT:
            return [*asked, *answer]
        other = next(column for column in self.found[RESPONSE] if column in self.used)
        if name and not repeats(self.row[name], answer):
            raise Ambiguous("prompt", (name, other), (f"{MESSAGES}: {other}", f"{PROMPT}: {name}, {RESPONSE}: …"))
        # The answer column holds the whole conversation: only a system turn may be missing from it.
        there = key_of(answer)
        return [*(turn for turn in asked if turn.role == SYSTEM and key_of([turn])[0] not in there), *answer]

    def _prompt(self) -> tuple[str | None, str | list[Turn]]:
        """(column, prompt), the prompt as text or turns; (None, []) if the answer column holds the prompt too."""
        found = {name: value for name, value in self.found[PROMPT].items() if isinstance(value, str | list | dict)}
        names = list(found)
        if not names:
            if PROMPT not in self.mapped and any(is_talk(one, name) for name, one in self.found[RESPONSE].items()):
                return None, []
            raise Malformed(self._no_prompt())
        # Several columns mapped to the prompt are joined; several known names must agree.
        if PROMPT in self.mapped and len(names) > 1:
            self.used |= set(names)
            return names[0], "\n\n".join(required_text(value, name) for name, value in found.items())
        first, *others = names
        self._refuse_message(first)
        prompt = prompt_of(found[first], first)
        for other in others:
            if key_of(prompt_of(found[other], other)) != key_of(prompt):
                raise Ambiguous("prompt", (first, other), (f"{PROMPT}: {first}", f"{PROMPT}: {other}"))
        self.used |= set(names)
        return first, prompt

    def _refuse_message(self, name: str) -> None:
        """Raises Malformed for a row that is an answer, or a later turn of a conversation spread over several rows."""
        role = self.row.get(ROLE)
        side = ROLES.get(role.strip().casefold()) if isinstance(role, str) else None
        if plain_name(name) == TEXT and side is not None and (side != USER or not is_blank(self.row.get(PARENT))):
            raise Malformed(
                f"the row is one message of a conversation ({ROLE}: {role}) and not a question; write a row for each "
                "conversation, with messages"
            )

    def _no_prompt(self) -> str:
        """The fault of the prompt column, as a message. Raises NoPrompt if no column is one."""
        mapped = self.mapped.get(PROMPT)
        there = [name for name in self.row if role_of(name) == MESSAGES and MESSAGES not in self.mapped]
        if there:
            return f"{there[0]} is not a list of turns"
        left_out = self.mapped.get(META, ())
        named = mapped or [name for name in self.row if role_of(name) == PROMPT and name not in left_out]
        if named and all(name in self.row for name in named):
            return f"{named[0]} is empty or not text"
        has = f"(it has {', '.join(self.row) or 'none'})"
        if mapped:
            return f"no column {', '.join(mapped)} {has}"
        names = "prompt, question, query or text" if MESSAGES in self.mapped else (
            "instruction, messages, conversations or prompt"
        )  # fmt: skip
        raise NoPrompt(f"no column {names} {has}")

    def _contexts(self, prompt: str) -> list[str]:
        texts: list[str] = []
        for name, value in self.found[CONTEXT].items():
            self.used.add(name)
            for text in value if isinstance(value, list) else [value]:
                if is_blank(text):
                    continue
                required_text(text, name)
                # A context that repeats the prompt is left out, except Alpaca's `input`: ids of its rows include it.
                if name.lower() == INPUT or text.strip() not in (prompt.strip(), *(other.strip() for other in texts)):
                    texts.append(text)
        return texts

    def _choices(self, options: Sequence[Option]) -> list[str]:
        if not options:
            return []
        self.used.add(next(iter(self.found[CHOICES])))
        return [shown(options)]

    def _history(self) -> list[Turn]:
        turns: list[Turn] = []
        for name, given in self.found[HISTORY].items():
            value = listed(given)
            if not isinstance(value, list):
                raise Malformed(f"{name} is not a list of turns (map it in seed_data.columns: {{context: {name}}})")
            self.used.add(name)
            if value and all(isinstance(one, str) for one in value):
                if len(value) % 2:
                    raise Malformed(
                        f"{name} has {len(value)} texts, so it is not pairs of a question and an answer; write turns "
                        "with a role"
                    )
                turns += read_turns(value, name)
                continue
            for one in value:
                if isinstance(one, list):
                    if len(one) != 2:
                        raise Malformed(f"an entry of {name} is not a pair of a question and an answer")
                    one = {USER: one[0], ASSISTANT: one[1]}
                turns += read_turns([one], name)
        return turns

    def _with_system(self, turns: list[Turn]) -> list[Turn]:
        found = self.found[SYSTEM]
        texts = {name: required_text(value, name) for name, value in found.items()}
        for name, text in texts.items():
            if any(text.strip() == turn.content.strip() for turn in turns if turn.role == SYSTEM):
                self.used.add(name)
        names = [name for name in texts if name not in self.used]
        if not names or (turns and turns[0].role == SYSTEM):
            return turns
        for other in names[1:]:
            if texts[other].strip() != texts[names[0]].strip():
                raise Ambiguous("system prompt", (names[0], other), (f"system: {names[0]}", f"system: {other}"))
        self.used |= set(names)
        return [Turn(SYSTEM, texts[names[0]]), *turns]

    def _answer(self, options: Sequence[Option]) -> list[Turn]:
        """The turns of the answer, which may be a whole conversation; empty if no column has one."""
        answers: dict[str, list[Turn]] = {}
        for name, value in self.found[RESPONSE].items():
            turns = self._answer_of(name, value, options)
            if turns is not None:
                answers[name] = turns
        if not answers:
            wrong = [
                name for name in self.found[RESPONSE] if is_first_choice(name, RESPONSE) or RESPONSE in self.mapped
            ]
            if wrong:
                kind = type(self.row[wrong[0]]).__name__
                raise Malformed(f"{wrong[0]} is not text (it is of type {kind})")
            return []
        first, *others = answers
        for other in others:
            if key_of(answers[other]) != key_of(answers[first]):
                settings = (f"{RESPONSE}: {first}", f"{RESPONSE}: {other}")
                raise Ambiguous("answer", (first, other), settings)
        if self.row.get(LABEL) is False and first.lower() == COMPLETION:
            raise Unsupported(UNDESIRABLE)
        self.used |= {name for name in answers if not isinstance(self.row[name], dict) or name.lower() != ANSWERS}
        return answers[first]

    def _answer_of(self, name: str, value: Any, options: Sequence[Option]) -> list[Turn] | None:
        """The turns in an answer column; None if it has no text."""
        if name.lower() == ANSWERS and not isinstance(value, str):
            texts = value.get("text") if isinstance(value, dict) else value
            found = (
                [text for text in texts if isinstance(text, str) and text.strip()] if isinstance(texts, list) else []
            )
            if found:
                # SQuAD lists several answers to one question; the first is the one to learn.
                self.known.add(name)
                value = found[0]
        if isinstance(value, str):
            text, thoughts = split_answer(value)
            return [Turn(ASSISTANT, text, thoughts)]
        if isinstance(value, dict | list) and is_talk(value, name):
            return read_turns(value if isinstance(value, list) else [value], name)
        choice = chosen(options, value)
        return None if choice is None else [Turn(ASSISTANT, choice)]

    def _with_reasoning(self, turns: list[Turn]) -> list[Turn]:
        """The turns with the thoughts of a reasoning column added to the last answer."""
        texts = {
            name: value
            for name, value in self.found[REASONING].items()
            if isinstance(value, str) and value.strip().casefold() not in FLAGS
        }
        if not texts or not turns or turns[-1].role != ASSISTANT:
            return turns
        *first, last = turns
        name, text = next(iter(texts.items()))
        text = bare_thoughts(text)
        self.used.add(name)
        _, reasoning = split_answer("", "\n\n".join(dict.fromkeys(one for one in (text, last.reasoning) if one)))
        return [*first, Turn(last.role, last.content, reasoning, last.learn, last.others)]

    def _without_loss(self, turns: list[Turn]) -> list[Turn]:
        places = self.row.get(NO_LOSS)
        if not isinstance(places, list) or not all(isinstance(place, int) for place in places):
            return turns
        self.used.add(NO_LOSS)
        return [
            Turn(turn.role, turn.content, turn.reasoning, turn.learn and at not in places, turn.others)
            for at, turn in enumerate(turns)
        ]
