"""Difficulties of a round's candidates in the learning benchmark: what the configured measure needs, and the measure.

Measures, losses and the comparison of answers are the product's. The student of the benchmark answers and is sampled
through transformers, and the simulator judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from benchmarks.learning_ledger import (
    JUDGEMENT,
    STUDENT_ANSWERS,
    STUDENT_LOSSES,
    STUDENT_SAMPLES,
    Ledger,
    words,
)
from benchmarks.learning_loop import Student, judged
from tapir_ray.config import Config
from tapir_ray.curriculum.difficulty import with_difficulty
from tapir_ray.curriculum.measures import SAMPLES, configured_measure
from tapir_ray.data.schemas import with_columns
from tapir_ray.simulator.options import Options
from tapir_ray.steps.losses import losses_by
from tapir_ray.train.chat import shared_tokenizer
from tapir_ray.train.weights import load_student
from tapir_ray.transforms.judge import MOST_REASONS
from tapir_ray.transforms.losses import TOKENS_ON_CPU, with_losses
from tapir_ray.transforms.verifiers import with_sample_scores


def with_measured(
    rows: pa.Table, config: Config, student: Student, options: Options, ledger: Ledger, seed: int
) -> pa.Table:
    """Returns the candidates with their difficulty; `seed` is that of the student's samples.

    `options` are the judge's. Judged rows keep the judge's first reply if the expansions show it to the teacher.
    """
    rules = config.curriculum.difficulty
    needs = configured_measure(rules)
    texts = [messages[-1]["content"] for messages in rows["messages"].to_pylist()]
    if needs.losses:
        rows = _with_losses(rows, config, student, ledger)
    if needs.asks_student:
        answers = student.answer(texts)
        rows = with_columns(rows, student_response=pa.array(answers, pa.string()))
        for text, answer in zip(texts, answers, strict=True):
            ledger.asked(STUDENT_ANSWERS, [text], answer)
    if needs.samples:
        samples = student.samples(texts, needs.samples, needs.temperature, seed)
        rows = with_columns(rows, student_samples=pa.array(samples, SAMPLES.type))
        for text, some in zip(texts, samples, strict=True):
            for one in some:
                ledger.asked(STUDENT_SAMPLES, [text], one)
    if needs.verified:
        rows = with_sample_scores(rows, config.judge.verifiers)
    if needs.judge:
        rows = _with_scores(rows, texts, answers, options, ledger, keep=config.expand.prompt == "feedback")
    return with_difficulty(rows, rules.measure)


def _with_losses(rows: pa.Table, config: Config, student: Student, ledger: Ledger) -> pa.Table:
    """Returns the rows with their losses by the student, or by `curriculum.difficulty.model`."""
    folder, by = config.curriculum.difficulty.model, losses_by(config).student
    model: Any = student.trained
    tokenizer: Any = student.tokenizer
    if folder is not None:
        model = load_student(folder, by, dtype=torch.float32, attn_implementation="sdpa")
        tokenizer = shared_tokenizer(folder, by)
    # Of each row two passes: the whole pair, and the response after one token. Both models have one vocabulary.
    pairs = [student.encode(row) for row in rows.to_pylist()]
    ledger.read(STUDENT_LOSSES, 2 * len(pairs), sum(len(pair.input_ids) + pair.in_loss + 1 for pair in pairs))
    return with_losses(rows, model.eval(), tokenizer, by, TOKENS_ON_CPU)


def _with_scores(
    rows: pa.Table, texts: Sequence[str], answers: Sequence[str], options: Options, ledger: Ledger, keep: bool
) -> pa.Table:
    """Returns the rows with the judge's scores in both orders, and its first reply if `keep`."""
    responses = rows["response"].to_pylist()
    found = judged(texts, responses, answers, rows["instruction_id"].to_pylist(), options)
    for text, response, answer, one in zip(texts, responses, answers, found, strict=True):
        for reply in one.replies:
            ledger.asked(
                JUDGEMENT,
                [text, response, answer],
                prompt_bytes=words("judge_pairwise"),
                reply_bytes=len(reply.encode()),
            )
    reasons = [one.replies[0][:MOST_REASONS] if keep else None for one in found]
    return with_columns(
        rows,
        teacher_score=pa.array([one.teacher_score for one in found], pa.float64()),
        student_score=pa.array([one.student_score for one in found], pa.float64()),
        judge_reasons=pa.array(reasons, pa.string()),
    )
