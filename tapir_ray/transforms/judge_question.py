"""Questions to the judge about a row: prompt, form of the reply and its parser, by `judge.mode`.

    questions = Questions.of(config)
    verdict = await ask(client, questions.pair(instruction, task, one, two), config.judge, seed)
    verdict.scores                                     # (8.0, 6.0): those of `one` and of `two`

`pairwise` asks about two answers at once, `pointwise` about each alone. `rubric` asks about two at once, and for a
score of each criterion of the task; the score of an answer is their weighted mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tapir_ray.config import Config, Judge
from tapir_ray.curriculum.rubric import Rubric, Rubrics
from tapir_ray.curriculum.tasks import load
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.prompts import Prompts
from tapir_ray.transforms.judge_request import ask_until_parsed, sampling_of, seed_of
from tapir_ray.transforms.rubric_json import Marks, parse_marks, rubric_form, rubric_format
from tapir_ray.transforms.scores_json import Scores, scores_format
from tapir_ray.transforms.verdict import parse_scores

UNPARSEABLE = "unparseable_scores"


@dataclass(frozen=True)
class Read:
    """Scores in a reply, in the order of the answers, and under a rubric the marks of each answer."""

    scores: Scores
    marks: tuple[Marks, ...] | None = None


@dataclass(frozen=True)
class Verdict:
    """Scores of one reply of the judge, its text, and under a rubric the marks of each answer by criterion."""

    scores: Scores
    text: str
    marks: tuple[Marks, ...] | None = None


@dataclass(frozen=True)
class Question:
    """Rendered prompt, the `response_format` of its reply, and the reader of the reply's text (None: in doubt)."""

    prompt: str
    format: dict[str, Any]
    read: Callable[[str], Read | None]
    form: str = ""
    """Form of the scores by criterion in the prompt."""


@dataclass(frozen=True)
class Questions:
    """Prompts of the judge, with the rubrics that `judge.mode: rubric` needs. Can be pickled."""

    prompts: Prompts
    rubrics: Rubrics | None = None
    """None: the judge gives one score for an answer."""

    @classmethod
    def of(cls, config: Config) -> Questions:
        """Returns the questions of a config. Raises InputError for a taxonomy file that cannot be used.

        Reads `curriculum.tasks`, so only the driver calls it: workers may not have the file.
        """
        rubrics = load(config.curriculum).rubrics if config.judge.mode == "rubric" else None
        return cls(Prompts(config.prompts.dir), rubrics)

    def pair(self, instruction: str, task: str | None, answer_1: str, answer_2: str) -> Question:
        """Returns the question about two answers that are shown together."""
        shown = {"instruction": instruction, "answer_1": answer_1, "answer_2": answer_2}
        return self._question("judge_pairwise", "judge_rubric", 2, shown, task)

    def one(self, instruction: str, task: str | None, answer: str) -> Question:
        """Returns the question about one answer."""
        shown = {"instruction": instruction, "answer": answer}
        return self._question("judge_pointwise", "judge_rubric_one", 1, shown, task)

    def longest(self) -> Questions:
        """Returns questions that have the longest rubric for every task, for an upper bound."""
        return self if self.rubrics is None else Questions(self.prompts, Rubrics(self.rubrics.longest()))

    def _question(self, plain: str, by_rubric: str, count: int, shown: dict[str, str], task: str | None) -> Question:
        if self.rubrics is None:
            return plain_question(self.prompts.render(plain, **shown), count)
        rubric = self.rubrics.of(task)
        form = rubric_form(rubric.names, count)
        prompt = self.prompts.render(by_rubric, criteria=rubric.text(), form=form, **shown)

        def read(text: str) -> Read | None:
            marks = parse_marks(text, rubric.names, count)
            return None if marks is None else Read(scores_of(marks, rubric), marks)

        return Question(prompt, rubric_format(rubric.names, count), read, form)


def plain_question(prompt: str, count: int) -> Question:
    """Returns a rendered prompt as a question for `count` (1 or 2) scores."""

    def read(text: str) -> Read | None:
        scores = parse_scores(text, count)
        return None if scores is None else Read(scores)

    return Question(prompt, scores_format(count), read)


def scores_of(marks: tuple[Marks, ...], rubric: Rubric) -> Scores:
    """Returns the weighted mean of each answer's marks."""
    return tuple(rubric.score(of_one) for of_one in marks)


async def ask(
    client: Client, question: Question, settings: Judge, seed: tuple[str, ...], lowest: float = 0.0
) -> Verdict:
    """Returns the judge's scores, asked at a temperature of at least `lowest`. Raises NotJudged.

    After a reply without scores, or a cut-off reply, the prompt is asked again at a temperature of at least
    RETRY_TEMPERATURE.
    """

    async def send(attempt: int) -> Reply:
        return await client.chat(
            [{"role": "user", "content": question.prompt}],
            sampling=sampling_of(client, attempt, lowest),
            seed=seed_of(*seed, str(attempt)),
            kind="judge",
            response_format=None if settings.structured == "off" else question.format,
            or_plain=settings.structured == "auto",
        )

    def parse(reply: Reply) -> Read | None:
        return question.read(reply.text or "")

    found, text = await ask_until_parsed(client, send, parse, settings.parse_attempts, UNPARSEABLE)
    return Verdict(found.scores, text, found.marks)
