"""ELAD (arXiv 2402.13098), explanation-guided active distillation, in one screen.

Every step reads tables of the run and publishes one. A step is skipped if its table is finished, so a stopped run
continues when it is started again.
"""

from __future__ import annotations

from dataclasses import fields

from tapir_ray.config import Config
from tapir_ray.cost.elad import estimated_elad
from tapir_ray.curriculum.measures import scored_schema
from tapir_ray.data.schemas import (
    ANNOTATED,
    CONTINUED,
    EXPLAINED,
    ID,
    PACKED,
    PREFIX_ID,
    SCORED,
    SELECTED,
    TRAINING,
)
from tapir_ray.methods import tapir
from tapir_ray.methods.method import Method
from tapir_ray.report.summary import print_table, summarise
from tapir_ray.run.layout import EladLayout, EladRound, Table
from tapir_ray.steps import annotate, early_stop, evaluate, explain, mix, revisions, round_zero, score, train
from tapir_ray.steps.context import Context
from tapir_ray.steps.stop import StopAfter


def refine(context: Context, stop: StopAfter) -> None:
    """Refines the student by the teacher's revisions of its own explanations, until a budget of annotations is spent.

    Writes `rounds/NN/{scored,explained,selected,annotated,training}`, `checkpoints/NN` and `evaluation/` into the run.
    Raises StageError if a step cannot be completed, and Reached after the stage that `stop` names.
    """
    round_zero.ingest(context)
    stop.after("ingest")
    round_zero.classify_and_initial_sft(context)  # on answers in steps, else the student would show none
    stop.after("classify", "sft")

    for round_number in range(1, context.config.curriculum.rounds + 1):
        if not mix.done(context, round_number):
            score.score(context, round_number)  # the holdout; under `select: mfd` the pool too
            stop.after("score")
            if early_stop.ends(context, round_number):  # the rounds before gained nothing
                break
            if not (annotations := annotate.budget_of(context, round_number)):  # a budget is spent
                break
            explain.explain(context, round_number, annotations)  # EGSS: the questions with the most uncertain steps
            stop.after("explain")
            annotate.annotate(context, round_number)  # CLEAR: the teacher corrects from the first faulty step on
            stop.after("annotate")
            revisions.mix(context, round_number)
        # An existing training set skips the stages above, so `--until` has to stop for them here.
        stop.after("score", "explain", "annotate", "mix")
        train.train(context, round_number)
        context.after_round()
        stop.after("train")

    evaluate.evaluate(context)
    stop.after("evaluate")


def layout(config: Config) -> EladLayout:
    """Returns the tables of a run: seed data and initial SFT, every round, and the evaluation of the last student."""
    curriculum = config.curriculum.model_copy(update={"rounds": 0})
    made = tapir.layout(config.model_copy(update={"curriculum": curriculum, "control": "none"}))
    student = made.sft_checkpoint
    rounds: list[EladRound] = []
    for number in range(1, config.curriculum.rounds + 1):
        rounds.append(_round(config, number, made.instructions, [one.annotated for one in rounds], student))
        student = rounds[-1].checkpoint
    suites = [
        tapir.suite_tables(config, suite, made.instructions, made.sft_checkpoint, student, None)
        for suite in config.evaluate.suites
    ]
    own = {
        "rounds": tuple(rounds),
        "evaluation": Table(made.evaluation.path, SCORED, ID, (made.instructions, student), "evaluate"),
        "suites": tuple(suites),
        "scheduled": rounds[0].packed if config.train.schedule == "whole" and rounds else None,
        "pool_answers": made.answers,
    }
    return EladLayout(**{one.name: getattr(made, one.name) for one in fields(made)} | own)


def _round(
    config: Config, number: int, instructions: Table, annotated_before: list[Table], student: Table
) -> EladRound:
    """Returns the tables of a round; `student` is the checkpoint that it starts from."""
    folder, uncertain = f"rounds/{number:02d}", config.elad.select == "uncertain"
    candidates = Table(f"{folder}/candidates", SCORED, ID, (instructions, *annotated_before), "score")
    schema = scored_schema(config.curriculum.difficulty.measure)
    scored = Table(f"{folder}/scored", schema, ID, (candidates, student), "score")
    explained = Table(f"{folder}/explained", EXPLAINED, ID, (scored,), "explain")
    continued = Table(f"{folder}/continued", CONTINUED, PREFIX_ID, (explained,), "explain") if uncertain else None
    chosen_by = (explained,) if continued is None else (explained, continued)
    selected = Table(f"{folder}/selected", SELECTED, ID, chosen_by, "explain")
    annotated = Table(f"{folder}/annotated", ANNOTATED, ID, (selected,), "annotate")
    plan = f"{folder}/plan.json"
    training = Table(f"{folder}/training", TRAINING, tapir.PAIR, (annotated, *annotated_before), "mix", files=(plan,))
    packed = Table(f"{folder}/packed", PACKED, inputs=(training, student), stage="train")
    return EladRound(
        candidates=candidates,
        scored=scored,
        training=training,
        packed=packed,
        checkpoint=Table(f"checkpoints/{number:02d}", inputs=(packed,), stage="train"),
        plan=plan,
        explained=explained,
        continued=continued,
        selected=selected,
        annotated=annotated,
    )


ELAD = Method(
    layout=layout,
    run=refine,
    summarise=summarise,
    show=print_table,
    estimate=estimated_elad,
    assumes=(
        "seed rows that overlap with the holdout, and tasks without a weight, cannot be counted before the run",
        "every round annotates elad.annotations questions; an explanation is as long as a seed answer, and so is the "
        "teacher's correction",
    ),
    asks=lambda config: True,
    trains=True,
    needs_tasks=True,
)
