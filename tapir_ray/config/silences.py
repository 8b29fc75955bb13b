"""Rules by which one key leaves another without effect (`contradictions.py` refuses such keys)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tapir_ray.config.config import Config
from tapir_ray.config.data import TASKS
from tapir_ray.config.elad_silences import OF_ELAD
from tapir_ray.config.engines import BATCH_KEYS, MODEL_KEYS, URL_KEYS, readers
from tapir_ray.config.measure_silences import OF_MEASURES
from tapir_ray.config.method import Operations
from tapir_ray.config.silence import Silence, value_of
from tapir_ray.data.storage import is_remote

SEED_ROWS, SEED_PATH = "simulator.seed_rows", "seed_data.path"
OF_SEED_ROWS = ("seed_rows", "seed_families", "seed_error_rate")
"""Keys of the simulator for the seed rows that it writes."""


def _engine(place: str) -> tuple[Silence, ...]:
    """Rules for the keys of an endpoint's section that its engine does not read."""

    def unread(keys: tuple[str, ...], because: str) -> list[Silence]:
        return [Silence((f"{place}.{key}",), f"{place}.engine", partial(_unread, place, key), because) for key in keys]

    return (
        *unread(
            MODEL_KEYS,
            f"on a model that this run does not serve: set {place}.engine {readers(MODEL_KEYS[0])}, or take it out",
        ),
        *unread(URL_KEYS, f"with this {place}.engine, which needs no URL and no API key: take one of them out"),
        *unread(BATCH_KEYS, f"without {place}.engine {readers(BATCH_KEYS[0])}: set it, or take this out"),
        Silence(
            (f"{place}.sampling.max_tokens",),
            f"{place}.max_completion_tokens",
            lambda config: value_of(config, f"{place}.max_completion_tokens") is not None,
            f"with {place}.max_completion_tokens, which replaces it: take one of them out",
        ),
    )


def _unread(place: str, key: str, config: Config) -> bool:
    endpoint = value_of(config, place)
    return endpoint is not None and key not in endpoint.spec.reads


def _no_comparison(by: str, when: Callable[[Config], bool], because: str, *, of_rounds: bool) -> tuple[Silence, ...]:
    """Rules for the keys that compare students on the holdout, which have no effect if `when` is true.

    Without `of_rounds` the rule is for the control alone.
    """
    rules = [Silence(("control",), by, lambda config: config.control != "none" and when(config),
                     f"{because}, or control none")]  # fmt: skip
    if of_rounds:
        stops = "curriculum.stop_when"
        rules.append(Silence((stops,), by, lambda config: config.curriculum.stop_when != "never" and when(config),
                             f"{because}, or {stops} never"))  # fmt: skip
    return tuple(rules)


SILENCES: tuple[Silence, ...] = (
    Silence(
        ("curriculum.difficulty.threshold",),
        "curriculum.difficulty.top_fraction",
        lambda config: config.curriculum.difficulty.top_fraction is not None,
        "with curriculum.difficulty.top_fraction, which sets the threshold: take one of them out (or set "
        "curriculum.difficulty.top_fraction=null)",
    ),
    Silence(
        ("curriculum.difficulty.threshold",),
        "curriculum.difficulty.select",
        lambda config: config.curriculum.difficulty.select == "frontier",
        "with curriculum.difficulty.select frontier, which selects the share curriculum.difficulty.top_fraction: take "
        "one of them out",
    ),
    Silence(
        (
            *(f"curriculum.difficulty.{name}" for name in ("threshold", "top_fraction", "min_hard_share")),
            "curriculum.alpha",
            "curriculum.alpha_step",
            "expand.sources.easy",
        ),
        "curriculum.difficulty.select",
        lambda config: config.curriculum.difficulty.select == "none",
        "with curriculum.difficulty.select none, under which all rows are in one pool: take it out",
    ),
    Silence(
        ("curriculum.difficulty.min_hard_share",),
        "expand.sources.hard",
        lambda config: config.expand.sources.hard == 0,
        "with expand.sources.hard 0, as no hard row is expanded: take one of them out",
    ),
    Silence(
        tuple(f"expand.operations.{name}" for name in Operations.model_fields),
        "expand.prompt",
        lambda config: config.expand.prompt != "evolve",
        "without expand.prompt evolve: set it, or take this out",
    ),
    Silence(
        ("expand.easier_share",),
        "expand.prompt",
        lambda config: config.expand.prompt != "feedback",
        "without expand.prompt feedback: set it, or take this out",
    ),
    Silence(
        ("expand.probe_share",),
        "curriculum.rounds",
        lambda config: config.curriculum.rounds < 2,
        "with curriculum.rounds below 2, as the last round has no probes: take it out",
    ),
    Silence(
        ("mix.fill",),
        "mix.size",
        lambda config: config.mix.fill != "none" and config.mix.size is None,
        "without mix.size, up to which unscored rows fill the training set: set it, or take this out",
    ),
    Silence(
        ("train.checkpoint_minutes",),
        "train.checkpoint_steps",
        lambda config: config.train.checkpoint_steps is not None,
        "with train.checkpoint_steps: take one of them out",
    ),
    Silence(
        ("train.initial_epochs", "train.initial_share"),
        "train.initial_sft",
        lambda config: config.train.initial_sft == "off",
        "with train.initial_sft off: take one of them out",
    ),
    Silence(
        ("train.schedule",),
        "curriculum.rounds",
        lambda config: config.train.schedule == "whole" and config.curriculum.rounds < 2,
        "with curriculum.rounds below 2, as no two rounds share a schedule: take one of them out",
    ),
    Silence(
        ("rewrite.mode", "rewrite.mark"),
        "rewrite.tasks",
        lambda config: config.rewrite.tasks == [],
        "with rewrite.tasks [], which leaves all answers without a style: take one of them out",
    ),
    Silence(
        ("rewrite.tasks",),
        "regenerate.operations",
        lambda config: config.regenerate is not None and not config.regenerate.does("rewrite"),
        "without the operation rewrite: add it to regenerate.operations, or take this out",
    ),
    Silence(
        ("rewrite.mark",),
        "regenerate",
        lambda config: config.regenerate is not None,
        "in a regeneration, which makes no training rows: take it out",
    ),
    Silence(
        ("cache.dir",),
        "cache.enabled",
        lambda config: not config.cache.enabled,
        "with cache.enabled false: take one of them out",
    ),
    Silence(
        ("holdout.stratify_by", "holdout.max_share", "holdout.select_share"),
        "holdout.rows",
        lambda config: config.holdout.rows == 0,
        "with holdout.rows 0: take it out, or set holdout.rows",
    ),
    Silence(
        ("simulator.path",),
        "simulator.scenario",
        lambda config: config.simulator is not None and config.simulator.scenario != "recorded",
        "without simulator.scenario recorded: set it, or take the path out",
    ),
    Silence(
        ("simulator.seed_families", "simulator.seed_error_rate"),
        "simulator.seed_rows",
        lambda config: config.simulator is not None and config.simulator.seed_rows == 0,
        "without simulator.seed_rows: set it, or take this out",
    ),
    Silence(
        ("simulator.teacher_error_rate",),
        "simulator.scenario",
        lambda config: config.simulator is not None and config.simulator.scenario != TASKS,
        "without simulator.scenario tasks: set it, or take this out",
    ),
    Silence(
        ("classify.model", "classify.create", "classify.label_rows"),
        "classify.by",
        lambda config: config.classify.by != "deberta",
        "without classify.by deberta: set it, or take this out",
    ),
    Silence(
        ("classify.epochs", "classify.learning_rate", "classify.train_batch_size", "classify.holdout_share"),
        "classify",
        lambda config: config.classify.by != "deberta" or config.classify.label_rows == 0,
        "without classify.by deberta and classify.label_rows above 0, as no classifier is trained: set them, or take "
        "this out",
    ),
    Silence(
        ("classify.min_task_prob",),
        "filter.other_task",
        lambda config: not config.filter.other_task,
        "with filter.other_task false: take one of them out",
    ),
    *OF_MEASURES,
    *OF_ELAD,
    Silence(
        ("judge.both_orders",),
        "judge.mode",
        lambda config: config.judge.mode == "pointwise",
        "with judge.mode pointwise, which shows the judge one answer at a time: take one of them out",
    ),
    Silence(
        ("judge.repeat_temperature",),
        "judge.repeat_share",
        lambda config: config.judge.repeat_share == 0,
        "with judge.repeat_share 0, as no row is judged twice: take one of them out",
    ),
    Silence(
        tuple(f"seed_data.columns.{role}" for role in ("prompt", "context", "choices", "history")),
        "seed_data.format",
        lambda config: config.seed_data.format in ("messages", "sharegpt"),
        "with seed_data.format messages or sharegpt, which read the prompt from the turns: take one of them out",
    ),
    Silence(
        ("seed_data.format",),
        "seed_data.columns.messages",
        lambda config: config.seed_data.format in ("alpaca", "prompt") and bool(config.seed_data.columns.messages),
        "with seed_data.columns.messages, which is read instead: take one of them out",
    ),
    Silence(
        ("student.engine_kwargs", "student.batch_size", "resources.student.keep"),
        "student.engine",
        lambda config: not config.student.spec.local,
        "with this student.engine, as the run starts no engine for the student: take it out",
    ),
    Silence(
        ("student.endpoint.sampling",),
        "student.endpoint",
        lambda config: config.student.endpoint is not None,
        "on the student: set student.sampling instead",
    ),
    Silence(
        ("student.revision", "student.trust_remote_code"),
        "student.create",
        lambda config: config.student.create is not None,
        "with student.create: take one of them out",
    ),
    Silence(
        ("student.revision",),
        "student.model",
        lambda config: _is_folder(config.student.model),
        "on a folder: take it out, or name a model of the Hugging Face hub in student.model",
    ),
    *_no_comparison(
        "curriculum.rounds",
        lambda config: config.curriculum.rounds == 0,
        "with curriculum.rounds 0: set it above 0",
        of_rounds=False,
    ),
    Silence(
        ("curriculum.stop_when",),
        "curriculum.rounds",
        lambda config: config.curriculum.stop_when != "never" and config.curriculum.rounds < 2,
        "with curriculum.rounds below 2, as there is no round to leave out: take one of them out",
    ),
    *_no_comparison(
        "holdout.rows",
        lambda config: config.holdout.rows == 0,
        "with holdout.rows 0, as students are compared on the holdout: set holdout.rows above 0",
        of_rounds=True,
    ),
    *_no_comparison(
        "curriculum.difficulty.measure",
        lambda config: config.regenerate is None and not config.measure_needs_judge,
        "with a curriculum.difficulty.measure that needs no judge, as the judge's scores of the holdout are compared: "
        "set another measure",
        of_rounds=True,
    ),
    *_no_comparison(
        "student.engine",
        lambda config: not config.student.spec.local,
        "with a student at an endpoint, whose answers are those of one model: set student.engine vllm",
        of_rounds=True,
    ),
    *_no_comparison(
        "regenerate",
        lambda config: config.regenerate is not None,
        "with the section regenerate, which trains no student: take one of them out",
        of_rounds=True,
    ),
    *_engine("teacher"),
    *_engine("judge"),
    *_engine("student.endpoint"),
)


def _is_folder(model: str | None) -> bool:
    return model is not None and (is_remote(model) or Path(model).is_dir())
