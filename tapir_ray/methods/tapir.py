"""The method: TAPIR (arXiv 2405.13448), task-aware curriculum planning for instruction refinement, in one screen.

Every step reads tables of the run and publishes one; a step whose table is there is not done again. So a run that was
stopped continues by being started again.
"""

from __future__ import annotations

from tapir_ray.steps import evaluate, generate, mix, round_zero, score, train
from tapir_ray.steps.context import Context
from tapir_ray.steps.stop import StopAfter

STAGES = ("ingest", "classify", "sft", "score", "generate", "mix", "train", "evaluate")


def distill(context: Context, stop: StopAfter) -> None:
    """Move the teacher's instruction following into the student, hard tasks first.

    Leaves `rounds/NN/{scored,generated,training}`, `checkpoints/NN` and `evaluation/` in the run. Raises StageError
    where a step cannot be completed, Reached after the stage that `stop` names.
    """
    round_zero.ingest(context)
    stop.after("ingest")
    round_zero.classify_and_initial_sft(context)
    stop.after("classify", "sft")

    for round_number in range(1, context.config.curriculum.rounds + 1):
        if not mix.done(context, round_number):
            score.score(context, round_number)  # the student answers, the judge compares: MFD
            stop.after("score")
            plan = score.plan(context, round_number)  # δ, α and the expansions by task
            generate.generate(context, round_number, plan)  # new instructions like the hard ones, answered in style
            stop.after("generate")
            mix.mix(context, round_number, plan)  # hard and easy at α, tasks by weight
        stop.after("score", "generate", "mix")
        train.train(context, round_number)
        stop.after("train")

    evaluate.holdout(context)
    stop.after("evaluate")
