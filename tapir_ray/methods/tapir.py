"""TAPIR (arXiv 2405.13448), task-aware curriculum planning for instruction refinement, in one screen.

Every step reads tables of the run and publishes one. A step is skipped if its table is finished, so a stopped run
continues when it is started again.
"""

from __future__ import annotations

import pyarrow as pa

from tapir_ray.config import Config
from tapir_ray.config.evaluate import HOLDOUT_SUITE, INITIAL, name_of
from tapir_ray.cost.estimate import estimated
from tapir_ray.curriculum.measures import scored_schema
from tapir_ray.data.schemas import (
    DRAW,
    GENERATED_ROWS,
    ID,
    INSTRUCTIONS,
    PACKED,
    SCORED,
    SOURCE_AND_ID,
    TRAINING,
)
from tapir_ray.methods.method import Method
from tapir_ray.report.summary import print_table, summarise
from tapir_ray.run.layout import (
    CLASSIFIER,
    CONTROL,
    SEED_FILE,
    Begin,
    ControlExpansions,
    ControlRound,
    LoopLayout,
    Round,
    SuiteTables,
    Table,
)
from tapir_ray.steps import control, early_stop, evaluate, generate, mix, round_zero, score, train
from tapir_ray.steps.contamination_list import CONTAMINATION
from tapir_ray.steps.context import Context
from tapir_ray.steps.control import POOL
from tapir_ray.steps.stop import StopAfter
from tapir_ray.transforms.ingest import PARSED

PAIR = ("pair_id",)


def distill(context: Context, stop: StopAfter) -> None:
    """Distils the teacher into the student in rounds, with a growing share of hard instructions.

    Writes `rounds/NN/{scored,generated,training}`, `checkpoints/NN`, `control/` and `evaluation/` into the run. Raises
    StageError if a step cannot be completed, and Reached after the stage that `stop` names.
    """
    round_zero.ingest(context)
    stop.after("ingest")
    round_zero.classify_and_initial_sft(context)
    stop.after("classify", "sft")

    for round_number in range(1, context.config.curriculum.rounds + 1):
        if not mix.done(context, round_number):
            score.score(context, round_number)  # the student answers, the judge compares: difficulty (MFD)
            stop.after("score")
            if early_stop.ends(context, round_number):  # the round before gained nothing
                break
            plan = score.plan(context, round_number)  # δ, α and the number of expansions by source and task
            generate.generate(context, round_number, plan)  # new instructions like the drawn ones, answered in style
            stop.after("generate")
            mix.mix(context, round_number, plan)  # α hard and 1 − α easy, tasks by weight
        # An existing training set skips the stages above, so `--until` has to stop for them here.
        stop.after("score", "generate", "mix")
        train.train(context, round_number)
        stop.after("train")
        control.control(context, round_number)  # a second student, on as many tokens without the curriculum
        context.after_round()
        stop.after("control")

    evaluate.evaluate(context)
    control.compare(context)  # the students of all rounds on the same holdout rows
    stop.after("evaluate")


def layout(config: Config) -> LoopLayout:
    """Returns the tables of a run: seed data and initial SFT, every round, and the evaluation of the last student."""
    read = Table("seed/read", PARSED, SOURCE_AND_ID, stage="ingest", files=(SEED_FILE,))
    split = Table("seed/split", INSTRUCTIONS, SOURCE_AND_ID, (read,), "ingest")
    # Evaluation sets have files of their own. `read` is their input all the same, because changed seed data makes
    # every table of the run stale.
    evaluation_sets = Table("seed/evaluation_sets", PARSED, SOURCE_AND_ID, (read,), "ingest")
    common_ngrams = Table("seed/common_ngrams", pa.schema([("hash", pa.uint64())]), inputs=(split,))
    ingested = Table(
        "seed/ingested",
        INSTRUCTIONS,
        SOURCE_AND_ID,
        (split, common_ngrams, evaluation_sets),
        "ingest",
        Begin("classify", ("messages",)),
    )
    contamination = Table("seed/contamination", CONTAMINATION, inputs=(ingested,), stage="ingest")
    labels = Table("seed/labels", INSTRUCTIONS, ID, (ingested,), "classify")
    classifier = Table(CLASSIFIER, inputs=(labels,), stage="classify")
    instructions = Table(
        "seed/instructions",
        INSTRUCTIONS,
        SOURCE_AND_ID,
        (ingested, classifier) if config.classify.by == "deberta" else (ingested,),
        "classify",
        Begin("score", ("messages", "response", "task")),
    )
    bands = Table("seed/bands", inputs=(instructions, common_ngrams))
    base = Table("checkpoints/base", inputs=(ingested,), stage="sft")
    trained_on = ingested if config.seed_data.responses == "keep" else instructions
    holdout = Table("seed/holdout", TRAINING, PAIR, (trained_on,), "sft")
    training = Table("seed/training", TRAINING, PAIR, (trained_on,), "sft")
    packed = Table("seed/packed", PACKED, inputs=(training, base), stage="sft")
    student = checkpoint = Table("checkpoints/00", inputs=(packed,), stage="sft")
    rounds: list[Round] = []
    controls: list[ControlRound] = []
    pool = Table(f"{CONTROL}/pool", POOL, ID, (instructions, base), "control")
    for number in range(1, config.curriculum.rounds + 1):
        generated = tuple(one.generated for one in rounds)
        rounds.append(_round(config, number, instructions, classifier, bands, generated, student))
        student = rounds[-1].checkpoint
        if config.control != "none":
            drawn = (instructions, classifier, bands)
            controls.append(_control(config.control, number, pool, rounds, controls, checkpoint, drawn))
    last_control = controls[-1].checkpoint if controls else None
    holdout_results = Table(f"evaluation/{HOLDOUT_SUITE}", SCORED, ID, (instructions, student), "evaluate")
    suites = [
        suite_tables(config, suite, instructions, checkpoint, student, last_control) for suite in config.evaluate.suites
    ]
    return LoopLayout(
        read=read,
        split=split,
        evaluation_sets=evaluation_sets,
        common_ngrams=common_ngrams,
        ingested=ingested,
        contamination=contamination,
        seed_bands=bands,
        labels=labels,
        classifier=classifier,
        instructions=instructions,
        base=base,
        holdout=holdout,
        holdout_packed=Table("seed/holdout_packed", PACKED, inputs=(holdout, base), stage="sft"),
        sft_training=training,
        sft_packed=packed,
        sft_checkpoint=checkpoint,
        rounds=tuple(rounds),
        evaluation=holdout_results,
        suites=tuple(suites),
        answers=None if config.seed_data.responses == "keep" else instructions,
        control_pool=pool if controls else None,
        controls=tuple(controls),
        answered_training=None if config.seed_data.responses == "keep" else training,
        scheduled=rounds[0].packed if config.train.schedule == "whole" and rounds else None,
    )


def suite_tables(
    config: Config, suite: str, instructions: Table, first: Table, last: Table, control: Table | None
) -> SuiteTables:
    """Returns the results of a suite for the students of a run; those of the holdout are among the rounds' scores.

    `first` is the checkpoint of round 0, which the initial student is read from or comes before.
    """
    name, wanted = name_of(suite), set(config.evaluate.students)

    def results(folder: str, student: Table) -> Table:
        return Table(f"{folder}/{name}", SCORED, ID, (instructions, student), "evaluate")

    if suite == HOLDOUT_SUITE:
        return SuiteTables(suite, results("evaluation", last))
    return SuiteTables(
        suite,
        last=results("evaluation", last),
        initial=results(f"evaluation/{INITIAL}", first) if INITIAL in wanted and not config.evaluate.only else None,
        control=results(f"{CONTROL}/{config.control}/evaluation", control) if control and "control" in wanted else None,
    )


def _round(
    config: Config,
    number: int,
    instructions: Table,
    classifier: Table,
    seed_bands: Table,
    generated_before: tuple[Table, ...],
    student: Table,
) -> Round:
    """Returns the tables of a round; `student` is the checkpoint that it starts from."""
    folder, first = f"rounds/{number:02d}", number == 1

    def begins(stage: str, *columns: str) -> Begin | None:
        return Begin(stage, ("messages", "response", *columns)) if first else None

    candidates = Table(f"{folder}/candidates", SCORED, ID, (instructions, *generated_before), "score")
    scores: tuple[str, ...] = ("teacher_score", "student_score") if config.measure_needs_judge else ("difficulty",)
    if config.curriculum.difficulty.select == "none":
        scores = ()
    scored = Table(
        f"{folder}/scored",
        scored_schema(config.curriculum.difficulty.measure),
        ID,
        (candidates, student),
        "score",
        begins("generate", "task", *scores),
    )
    expanded = Table(f"{folder}/expanded", generate.CHECKED, DRAW, (scored, classifier), "generate")
    bands = Table(f"{folder}/bands", inputs=(expanded, seed_bands), stage="generate")
    checked = Table(f"{folder}/checked", generate.CHECKED, DRAW, (expanded, bands), "generate")
    contamination = Table(f"{folder}/contamination", CONTAMINATION, inputs=(checked,), stage="generate")
    generated = Table(f"{folder}/generated", GENERATED_ROWS, DRAW, (checked,), "generate", begins("mix", "task"))
    pool = Table(f"{folder}/pool", TRAINING, ID, (scored, generated), "mix")
    plan = f"{folder}/plan.json"
    training = Table(f"{folder}/training", TRAINING, PAIR, (pool,), "mix", begins("train"), (plan,))
    packed = Table(f"{folder}/packed", PACKED, inputs=(training, student), stage="train")
    checkpoint = Table(f"checkpoints/{number:02d}", inputs=(packed,), stage="train")
    return Round(
        candidates=candidates,
        scored=scored,
        training=training,
        packed=packed,
        checkpoint=checkpoint,
        plan=plan,
        expanded=expanded,
        bands=bands,
        checked=checked,
        contamination=contamination,
        generated=generated,
        pool=pool,
    )


def _control(
    by: str,
    number: int,
    pool: Table,
    rounds: list[Round],
    earlier: list[ControlRound],
    start: Table,
    expanded_from: tuple[Table, Table, Table],
) -> ControlRound:
    """Returns the tables of the control next to the last of `rounds`; without an `earlier` one it begins at `start`.

    `expanded_from` are the seed data, the classifier and the bands of the seed data, of which `random` expands.
    """
    folder, before = f"{CONTROL}/{by}/{number:02d}", earlier[-1] if earlier else None
    new = _expansions(folder, before.expansions if before else None, *expanded_from) if by == "random" else None
    # It draws as many tokens as the round has packed, from where the control before has stopped.
    drawn = (pool, rounds[-1].packed, *((new.new,) if new else ()), *((before.training,) if before else ()))
    training = Table(f"{folder}/training", TRAINING, PAIR, drawn, "control")
    student = before.checkpoint if before else start
    packed = Table(f"{folder}/packed", PACKED, inputs=(training, student), stage="control")
    checkpoint = Table(f"{folder}/checkpoint", inputs=(packed,), stage="control")
    evaluation = Table(f"{folder}/holdout", SCORED, ID, (expanded_from[0], checkpoint), "control")
    return ControlRound(training, packed, checkpoint, evaluation, new)


def _expansions(
    folder: str, before: ControlExpansions | None, instructions: Table, classifier: Table, seed_bands: Table
) -> ControlExpansions:
    """Returns the tables of a control's new instructions; those of the round `before` are not repeated."""
    expanded = Table(f"{folder}/expanded", generate.CHECKED, DRAW, (instructions, classifier), "control")
    compared = (expanded, seed_bands, *((before.bands,) if before else ()))
    bands = Table(f"{folder}/bands", inputs=compared, stage="control")
    checked = Table(f"{folder}/checked", generate.CHECKED, DRAW, (expanded, bands), "control")
    contamination = Table(f"{folder}/contamination", CONTAMINATION, inputs=(checked,), stage="control")
    generated = Table(f"{folder}/generated", GENERATED_ROWS, DRAW, (checked,), "control")
    new = Table(f"{folder}/new", POOL, ID, (generated,), "control")
    return ControlExpansions(expanded, bands, checked, contamination, generated, new)


TAPIR = Method(
    layout=layout,
    run=distill,
    summarise=summarise,
    show=print_table,
    estimate=estimated,
    assumes=("seed rows that overlap with the holdout, and tasks without a weight, cannot be counted before the run",),
    asks=lambda config: True,
    trains=True,
    needs_tasks=True,
)
