"""Settings of the built-in evaluation suites that ask the judge (docs/evaluation.md)."""

from __future__ import annotations

from tapir_ray.config.section import Count, Section, key


class MtBench(Section):
    """Suite `mt_bench`: two turns of each question, each graded 1 to 10 by the judge."""

    questions: str | None = None
    """File of the questions, with `question_id`, `category` and `turns`."""
    references: str | None = None
    """File of the reference answers, with `question_id` and `choices`."""
    max_tokens: Count = 1024
    """Most tokens of an answer of the student."""


class AlpacaEval(Section):
    """Suite `alpaca_eval`: the student's answers against those of a baseline model."""

    baseline: str | None = None
    """File of the baseline's answers, with `instruction`, `output` and `generator`. A file of annotations serves too:
    its `output_1` is the baseline's answer."""
    items: str | None = None
    """File of the instructions to answer; `null` is all of the baseline's."""
    evaluator: str = "weighted_alpaca_eval_gpt4_turbo"
    """Evaluator of the package alpaca-eval, of which the prompt and the tokens of a verdict are used."""
    logprobs: bool = True
    """Weigh a verdict by the probability of its first token. `false` is for a judge that gives none: each verdict is
    then a whole win or loss."""
    max_tokens: Count = 2048
    """Most tokens of an answer of the student."""
    length_control: str | None = key(None, invalidates=())
    """The package's file `df_gamed.csv`, for the length-controlled win rate as well; `null` reports the raw one."""
