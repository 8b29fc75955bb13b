"""Model card of a student: its base, recipe, data, scores with intervals, contamination, and terms to check.

The scores are read from the tables of the run, so they are those of the student that the card is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tapir_ray.config import Config
from tapir_ray.data.files import is_hub_id
from tapir_ray.evaluate.holdout_scores import read_scores, selects
from tapir_ray.evaluate.paired import bootstrap, in_words, paired_gain
from tapir_ray.report.export.dataset_card import TERMS, contamination
from tapir_ray.report.export.rows import Counts, Provenance, rows
from tapir_ray.report.export.students import BEST, CONTROL, INITIAL, LAST, Chosen, is_local_name
from tapir_ray.run.layout import LoopLayout, Table
from tapir_ray.run.run import Run
from tapir_ray.run.versions import versions
from tapir_ray.steps.dataset_card import TAG, in_markdown, source_of, yaml_block
from tapir_ray.steps.students import trained_on

RECIPE = (
    "student.chat_template", "curriculum.rounds", "curriculum.alpha", "curriculum.alpha_step", "curriculum.tasks",
    "curriculum.difficulty.measure", "curriculum.difficulty.select", "curriculum.difficulty.threshold", "expand.size",
    "rewrite.tasks", "train.init_from", "train.data", "train.initial_epochs", "train.epochs", "train.learning_rate",
    "train.round_learning_rate", "train.schedule", "train.global_batch_size", "train.sequence_length",
    "train.loss_mask", "train.precision", "train.lora", "random_seed",
)  # fmt: skip
"""Keys of the config that say how the student was made. Those that are unset are not shown."""
OF_TAPIR = ("curriculum.alpha", "curriculum.alpha_step", "curriculum.difficulty.", "expand.")
"""Begins of keys without effect on another method."""
OF_ELAD = (
    "method", "elad.annotations", "elad.max_annotations", "elad.select", "elad.samples", "elad.temperature",
    "elad.revise",
)  # fmt: skip
MAYBE_FILES = ("student.chat_template", "curriculum.tasks")
"""Keys whose value may be the path of a file, of which a card shows the name alone."""
WHO = {
    BEST: "the student of round {}, the best by the selecting half of the holdout",
    LAST: "the student of round {}, the last one",
    CONTROL: "the control of round {}: trained on as many tokens without the curriculum",
    INITIAL: "the student after the initial SFT, before the rounds",
}


def card(run: Run, config: Config, layout: LoopLayout, chosen: Chosen, adapter: bool = False) -> str:
    """Returns the text of `README.md` for the folder of an exported student."""
    base = base_name(config)
    made_from = "trained from random weights (`student.create`)" if base is None else f"trained from `{base}`"
    front: dict[str, Any] = {
        **({"base_model": base} if base is not None and "/" in base else {}),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["distillation", TAG],
        **({"datasets": [source_of(config)]} if is_hub_id(config.seed_data.path or "") else {}),
    }
    tables = training_tables(run, config, layout, chosen)
    counts = Counts()
    for row in rows(run, tables, Provenance.of(run, layout), counts):
        counts.take(row)
    lines = [
        yaml_block(front),
        f"# {config.name}",
        f"{'LoRA adapter of a' if adapter else 'A'} student, {made_from}, distilled by tapir-ray from the teacher "
        f"`{config.teacher.model}`: {WHO[chosen.which].format(chosen.round)}.",
        "## Recipe",
        in_markdown(("key", "value"), recipe(config)),
        "## Data",
        f"Seed data: `{source_of(config)}`. An instruction may be in the training sets of several rounds.",
        in_markdown(("training set", "rows"), [(table, count) for table, count in counts.read.items()]),
        *_held(counts),
        "## Scores",
        *scores(run, config, layout, chosen),
        "## Contamination",
        contamination(run, layout),
        "## Terms",
        TERMS if base is None else f"The licence of the base `{base}` holds for this student too. {TERMS}",
        "## Made with",
        in_markdown(("package", "version"), versions().items()),
        f"Random seed {config.random_seed}; hash of the config {config.digest()}.",
    ]
    return "\n\n".join(lines) + "\n"


def base_name(config: Config) -> str | None:
    """Returns the name of the base: an id of the hub, or the last part of a folder or URI of the user's.

    None for a student that was made with random weights.
    """
    if config.student.model is None:
        return None
    model = config.student.model.partition("?")[0].rstrip("/")
    return model.rpartition("/")[2] if is_local_name(model) else model


def recipe(config: Config) -> list[tuple[str, str]]:
    """Returns (key, value) of the keys of RECIPE that have a value."""
    found = []
    elad = config.work == "elad"
    keys = [*OF_ELAD, *(key for key in RECIPE if not key.startswith(OF_TAPIR))] if elad else RECIPE
    for path in keys:
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        if path == "train.lora" and value is not None:
            value = ", ".join(f"{name} {one}" for name, one in value.model_dump().items())
        if path in MAYBE_FILES and value is not None:
            value = value.rpartition("/")[2]
        if value not in (None, [], {}):
            found.append((path, str(value)))
    return found


def training_tables(run: Run, config: Config, layout: LoopLayout, chosen: Chosen) -> list[Table]:
    """Returns the tables that the student was trained on, in order."""
    numbers = range(1, chosen.round + 1)
    if chosen.which == CONTROL:
        drawn = [layout.control(number).training for number in numbers]
    else:
        drawn = [layout.training(number) for number in numbers]
    return list(trained_on(run, config, layout, drawn) or ())


def _held(counts: Counts) -> list[str]:
    titles = {"task": "task", "license": "licence", "teacher_model": "teacher of the answer"}
    return [
        in_markdown((title, "rows"), sorted(counts.held[name].items()))
        for name, title in titles.items()
        if counts.held[name]
    ]


def scores(run: Run, config: Config, layout: LoopLayout, chosen: Chosen) -> list[str]:
    """Returns the paragraphs with the scores of a student: the holdout, gains over others, and the suites."""
    own = holdout_of(run, layout, chosen)
    lines = []
    if own:
        reported = [
            own[row] for row in sorted(own) if not selects(row, config.random_seed, config.holdout.select_share)
        ]
        metric = bootstrap(reported or list(own.values()), random_seed=config.random_seed)
        which = "that did not choose the round" if reported else "that also choose the round"
        lines.append(
            f"Judge's score of its answers on {metric.rows} holdout rows {which}, 1 to 10: {metric.value:.2f} "
            f"[{metric.low:.2f}, {metric.high:.2f}]."
        )
        others = {
            "the student before the rounds": Chosen(INITIAL, "", 0, None) if chosen.which != INITIAL else None,
            "a control without the curriculum": (
                Chosen(CONTROL, "", chosen.round, None) if layout.controls and chosen.which in (BEST, LAST) else None
            ),
        }
        for name, other in others.items():
            theirs = {} if other is None or chosen.round == 0 else holdout_of(run, layout, other)
            if own.keys() & theirs.keys():
                gain = paired_gain(theirs, own, config.random_seed)
                lines.append(f"Over {name}: {in_words(gain)} on {gain.rows} holdout rows of both.")
    suites = _suites(run, chosen)
    if suites:
        lines.append(in_markdown(("suite", "score", "95 % interval", "items", "contaminated items"), suites))
    if not lines:
        return ["The run has not scored it."]
    return [*lines, "Intervals are 95 % bootstrap intervals over the rows; they do not cover another training."]


def holdout_of(run: Run, layout: LoopLayout, chosen: Chosen) -> dict[str, float]:
    """Returns the judge's scores of a student's answers to the holdout by id; empty if they are not in the run."""
    if chosen.which == CONTROL:
        table = layout.control(chosen.round).evaluation
    else:
        # A run that ended early, or that goes on, has the scores of its last student in `evaluation`.
        scored = [number for number in range(1, len(layout.rounds) + 1) if run.done(layout.any_round(number).scored)]
        ended = max(chosen.round, *scored, 0) if scored else chosen.round
        table = layout.ended_after(ended).judged_holdout(chosen.round)
    return {row: score for row, (_, score) in read_scores(run, table).items()}


def _suites(run: Run, chosen: Chosen) -> list[tuple[str, ...]]:
    """Returns the results of the suites in `summary.json` for a student; they measure the last, initial and control."""
    summary = run.find_json("summary.json") or {}
    last_round = max((entry["round"] for entry in summary.get("rounds", [])), default=0)
    found: list[tuple[str, ...]] = []
    for name, results in summary.get("suites", {}).items():
        is_last = chosen.which in (BEST, LAST) and chosen.round == last_round
        one: Mapping[str, Any] | None = results if is_last else results.get(chosen.which)
        if one is None or one.get("score") is None or name == "holdout":
            continue
        score, dirty = one["score"], one.get("contaminated")
        interval = f"[{score['low']:.3f}, {score['high']:.3f}]"
        found.append(
            (name, f"{score['value']:.3f}", interval, str(score["rows"]), "not known" if dirty is None else str(dirty))
        )
    return found
