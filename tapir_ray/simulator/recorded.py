"""Scenario `recorded`: a teacher and judge built from a file of (instruction, response) pairs, e.g. Alpaca.

- Answers the instructions of the file; a conversation is looked up by all its turns, else by its last user turn.
- Expands by handing out recorded instructions as new ones: the last user turn of a conversation.
- Grades by overlap with the recorded answer (ROUGE-L).
- Labels tasks by word lists on the last user turn: a heuristic, good enough to run the loop on real data offline.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence

from tapir_ray.config import Curriculum
from tapir_ray.config.data import RECORDED
from tapir_ray.curriculum.tasks import OTHERS, load
from tapir_ray.data.columns import Mapped
from tapir_ray.data.files import find
from tapir_ray.data.formats import Conversation, Malformed, Unsupported, parse
from tapir_ray.data.readers import Unreadable, read_raw
from tapir_ray.data.schemas import Message, text_of
from tapir_ray.data.words import piece_ends
from tapir_ray.errors import InputError
from tapir_ray.simulator import requests
from tapir_ray.simulator.benchmarks import first_token, judged
from tapir_ray.simulator.judging import answers_in, reply_about
from tapir_ray.simulator.options import Options
from tapir_ray.simulator.requests import Request
from tapir_ray.simulator.rouge import rouge_l

TURN = re.compile(r"\n\n\[user\]\n")
USED_UP = "no recorded rows left for this task"
"""Text before an empty <new_instruction>: the file has no unused row of the task beyond `skip`."""


class Recorded:
    """Teacher and judge that know the pairs of one file; see `reply`."""

    def __init__(self, options: Options) -> None:
        """Raises InputError for a file or word list that is missing or malformed."""
        path = options.path or options.scenario
        if path == RECORDED:
            raise InputError("the simulator's scenario recorded needs a path to a file of pairs")
        self.options = options
        self.taxonomy = load(Curriculum(tasks=options.task_words or "tapir", toxicity=True))
        self.answers: dict[str, str] = {}
        self.answers_to_turn: dict[str, str] = {}
        self.unseen: dict[str, list[str]] = {}
        columns = json.loads(options.columns) if options.columns else {}
        for row, conversation in _conversations(path, options, columns):
            turn = _last_user_turn(conversation.messages)
            if conversation.response is None or not turn:
                continue
            self.answers.setdefault(text_of(conversation.messages).strip(), conversation.response)
            if turn in self.answers_to_turn:
                continue
            self.answers_to_turn[turn] = conversation.response
            if row >= options.skip:
                self.unseen.setdefault(self.taxonomy.label_by_words(turn), []).append(turn)
        if not self.answers:
            raise InputError(f"the recorded pairs {path} hold no instruction with a response")
        for task, rows in self.unseen.items():
            random.Random(f"{options.seed} rows {task}").shuffle(rows)

    def reply(self, request: Request) -> str:
        """The text of the reply, a function of the request, the file and the options.

        An unknown instruction gets an empty answer, which a pipeline filters as empty, and the lowest score.
        """
        parts = request.parts
        if request.kind in requests.JUDGINGS:
            return self._judge(request)
        if request.kind in requests.BENCHMARKS:
            return judged(self.options, request, self._grade)
        if request.kind == requests.EXPAND:
            new = self._unseen(request)
            return f"{'' if new else USED_UP}<new_instruction>{new}</new_instruction>"
        if request.kind == requests.LABEL:
            return self._label(parts["instruction"], parts["labels"].split("\n"))
        if request.kind == requests.REWRITE:
            return self._known(parts["instruction"]) or parts["answer"]
        answer = self._known(text_of(request.conversation), _last_user_turn(request.conversation)) or ""
        if request.model == requests.STUDENT:
            ends = [0, *piece_ends(answer)]
            # A simulated student knows a random share of the beginning of the recorded answer.
            kept = random.Random(f"{self.options.seed} attempt {answer}").randint(0, len(ends) - 1)
            return " ".join(answer[: ends[kept]].split())
        return answer

    def first_token(self, request: Request) -> dict[str, float] | None:
        """Log probabilities of the reply's first token, for requests whose verdict is one token."""
        return first_token(self.options, request, self._grade)

    def _grade(self, question: str, answer: str) -> float | None:
        recorded = self._known(question)
        return None if recorded is None else rouge_l(answer, recorded)

    def _known(self, text: str, turn: str | None = None) -> str | None:
        """The recorded answer to a conversation's text (`text_of`), found by all of it, else by its last user turn."""
        turn = _last_user_turn_of(text) if turn is None else turn
        return self.answers.get(text.strip(), self.answers_to_turn.get(turn))

    def _judge(self, request: Request) -> str:
        answers = answers_in(request)
        grades = [self._grade(request.parts["instruction"], answer) or 0.0 for answer in answers]
        return reply_about(self.options, request, grades)

    def _label(self, instruction: str, labels: Sequence[str]) -> str:
        offered = [label.strip() for label in labels if label.strip()]
        label = self.taxonomy.label_by_words(_last_user_turn_of(instruction))
        return label if label in offered or not offered else OTHERS if OTHERS in offered else offered[-1]

    def _unseen(self, request: Request) -> str:
        """A row of the task named in the prompt, else of the task that its words suggest, chosen by the request's seed.

        The server keeps no state. Consecutive seeds give different rows until the rows of the task are used up; other
        seeds may give a row twice, which the pipeline then filters as an exact duplicate.
        """
        task, turn = request.parts["task"].strip(), _last_user_turn_of(request.parts["instruction"])
        if task not in self.taxonomy.labels:
            task = self.taxonomy.label_by_words(turn)
        # Never the instruction itself, which a pipeline would filter as a duplicate.
        others = [row for row in self.unseen.get(task, []) if row != turn]
        return others[request.seed % len(others)] if others else ""


def _last_user_turn(messages: Sequence[Message]) -> str:
    return next((message["content"].strip() for message in reversed(messages) if message["role"] == "user"), "")


def _last_user_turn_of(text: str) -> str:
    """The last user turn of a conversation in the form of `text_of`; any other text is returned whole."""
    *_, last = TURN.split(f"\n\n{text.strip()}")
    return last.strip()


def _conversations(path: str, options: Options, columns: Mapped) -> Iterator[tuple[int, Conversation]]:
    """Yields (row number, conversation) for a file or folder; rows are counted from 0, as for `seed_data.limit`.

    Rows that are no conversation are left out. Raises InputError if there is nothing to read or a file is broken.
    """
    found = find(path, "the recorded pairs", "train" if options.is_seed else "all", options.split, options.revision)
    rows = (row for file in found.files for row in read_raw(file, options.revision))
    for number, (place, raw) in enumerate(rows):
        if isinstance(raw, Unreadable):
            raise InputError(f"the recorded pairs {path}: {place}: {raw}")
        try:
            conversations = parse(raw, turns="all", columns=columns)
        except (Malformed, Unsupported):
            continue
        yield from ((number, conversation) for conversation in conversations)
