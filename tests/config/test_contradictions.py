"""Contradictions: every given key has an effect or is refused, and overrides win over the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_ray.config import Config, changed, load, parse
from tapir_ray.config.contradictions import refuse_contradictions
from tapir_ray.config.silences import SILENCES
from tapir_ray.errors import InputError

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tests/loop.yaml"
SMALL: dict[str, Any] = {"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}}
CREATED = {"create": {"max_length": 4096}}
NO_JUDGE = "tests.curriculum.test_measures:answer_length"
HERE = {"engine": "openai", "model": "m"}


def test_the_users_seed_data_wins_over_the_demos() -> None:
    """`--set seed_data.path=mine.jsonl` was once ignored and the demo's data used."""
    config = load(DEMO, ["seed_data.path=mine.jsonl"])
    assert config.seed_data.path == "mine.jsonl"
    assert config.simulator is not None and config.simulator.seed_rows == 0
    assert config.results()["seed_data"]["path"] == "mine.jsonl"
    assert load(DEMO).simulator.seed_rows == 3500  # type: ignore[union-attr]
    assert load(DEMO, ["seed_data.path="]).simulator.seed_rows == 3500  # type: ignore[union-attr]
    assert load(DEMO, ["seed_data={path: mine.jsonl}"]).simulator.seed_rows == 0  # type: ignore[union-attr]
    assert changed(load(DEMO), ["seed_data.path=mine.jsonl"]) == config


def test_two_sources_of_seed_data_are_refused(tmp_path: Path) -> None:
    both = {**SMALL, "simulator": {"seed_rows": 10}}
    with pytest.raises(InputError, match=r"take out simulator\.seed_rows to use the file"):
        parse(both)
    with pytest.raises(InputError, match=r"take out simulator\.seed_rows"):
        load(DEMO, ["seed_data.path=mine.jsonl", "simulator.seed_rows=20"])
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(both))
    assert load(path, ["seed_data.path=b.jsonl"]).seed_data.path == "b.jsonl"


PAIRS = {
    "curriculum.difficulty.threshold": {"curriculum": {"difficulty": {"threshold": 2, "top_fraction": 0.3}}},
    **{f"curriculum.difficulty.{key}": {"curriculum": {"difficulty": {"select": "none", key: value}}}
       for key, value in (("top_fraction", 0.3), ("min_hard_share", 0.1))},
    **{f"curriculum.{key}": {"curriculum": {"difficulty": {"select": "none"}, key: 0.4}}
       for key in ("alpha", "alpha_step")},
    "expand.sources.easy": {
        "expand": {"sources": {"hard": 0.5, "easy": 0.5}}, "curriculum": {"difficulty": {"select": "none"}},
    },
    "expand.probe_share": {"expand": {"probe_share": 0.2}, "curriculum": {"rounds": 1}},
    "mix.fill": {"mix": {"fill": "unscored"}},
    "train.initial_share": {"train": {"initial_share": 0.5, "initial_sft": False}},
    "train.checkpoint_minutes": {"train": {"checkpoint_minutes": 5, "checkpoint_steps": 9}},
    "train.initial_epochs": {"train": {"initial_epochs": 2, "initial_sft": False}},
    "train.schedule": {"train": {"schedule": "whole"}, "curriculum": {"rounds": 1}},
    "rewrite.mode": {"rewrite": {"mode": "second_pass", "tasks": []}},
    "rewrite.mark": {"rewrite": {"mark": True, "tasks": []}},
    "rewrite.tasks": {"rewrite": {"tasks": ["Math"]}, "regenerate": {"operations": ["filter"]}},
    "simulator.seed_families": {"simulator": {"seed_families": ["arithmetic"]}},
    "simulator.seed_error_rate": {"simulator": {"seed_error_rate": 0.1}},
    "simulator.teacher_error_rate": {"simulator": {"scenario": "recorded", "teacher_error_rate": 0.1}},
    "cache.dir": {"cache": {"enabled": False, "dir": "/c"}},
    "holdout.stratify_by": {"holdout": {"rows": 0, "stratify_by": ["level"]}},
    "holdout.max_share": {"holdout": {"rows": 0, "max_share": 0.5}},
    "holdout.select_share": {"holdout": {"rows": 0, "select_share": 0.3}},
    "simulator.path": {"simulator": {"path": "pairs.jsonl"}},
    "classify.model": {"classify": {"by": "teacher", "model": "m"}},
    "classify.create": {"classify": {"by": "none", "create": {}}},
    "classify.label_rows": {"classify": {"by": "teacher", "label_rows": 9}},
    "classify.epochs": {"classify": {"by": "deberta", "model": "m", "epochs": 5}},
    "classify.learning_rate": {"classify": {"by": "teacher", "learning_rate": 1e-3}},
    "classify.train_batch_size": {"classify": {"by": "teacher", "train_batch_size": 8}},
    "classify.holdout_share": {"classify": {"by": "teacher", "holdout_share": 0.3}},
    "classify.min_task_prob": {
        "classify": {"by": "teacher", "min_task_prob": 0.5}, "filter": {"other_task": False},
    },
    "judge.both_orders": {"judge": {"both_orders": True, "mode": "pointwise"}},
    "judge.repeat_temperature": {"judge": {"repeat_share": 0, "repeat_temperature": 0.5}},
    **{f"seed_data.columns.{role}": {"seed_data": {"path": "a", "format": "messages", "columns": {role: "q"}}}
       for role in ("prompt", "context", "choices", "history")},
    "seed_data.format": {"seed_data": {"path": "a", "format": "alpaca", "columns": {"messages": "m"}}},
    "student.engine_kwargs": {"student": {"model": "m", "engine": "openai", "endpoint": {"model": "s"},
                                          "engine_kwargs": {"max_num_seqs": 4}}},
    "student.batch_size": {"student": {"model": "m", "engine": "openai", "endpoint": {"model": "s"}, "batch_size": 8}},
    "resources.student.keep": {"student": {"model": "m", "engine": "openai", "endpoint": {"model": "s"}},
                               "resources": {"student": {"keep": True}}},
    "student.endpoint.sampling": {
        "student": {"model": "m", "engine": "openai", "endpoint": {"model": "s", "sampling": {"max_tokens": 9}}},
    },
    "student.revision": {"student": {**CREATED, "revision": "main"}},
    "student.trust_remote_code": {"student": {**CREATED, "trust_remote_code": True}},
    **{f"teacher.{key}": {"teacher": {**HERE, key: value}}
       for key, value in (("engine_kwargs", {"a": 1}), ("max_model_len", 8192), ("trust_remote_code", True),
                          ("batch", {"size": 9}))},
    **{f"judge.{key}": {"judge": {"engine": "vllm", "model": "m", key: value}}
       for key, value in (("base_url", "http://h/v1"), ("api_key_env", "KEY"))},
    **{f"judge.{key}": {"judge": {key: value}, "curriculum": {"difficulty": {"measure": NO_JUDGE}}}
       for key, value in {
           "engine": "openai", "model": "m", "sampling": {"max_tokens": 9}, "max_completion_tokens": 9,
           "reasoning": "keep", "thinking_marks": [["<a>", "</a>"]], "finish_reasons": {"": "stop"},
           "extra_body": {"a": 1}, "timeout_s": 9, "max_attempts": 2, "limits": {"in_flight": 4},
           "price": {"input": 1, "output": 2}, "same_as": "teacher", "mode": "pointwise", "parse_attempts": 2,
           "structured": "off", "repeat_share": 0.1, "verifiers": ["reference_number"], "min_teacher_score": 3,
           "verified_share": 0.1,
       }.items()},
    **{f"curriculum.difficulty.{key}": {"curriculum": {"difficulty": {key: value}}}
       for key, value in (("samples", 4), ("temperature", 0.5), ("model", "gpt2"), ("chat_template", "chatml"))},
    "expand.prompt": {"expand": {"prompt": "feedback"},
                      "curriculum": {"difficulty": {"measure": "ifd", "top_fraction": 0.3}}},
    **{f"expand.operations.{name}": {"expand": {"operations": {name: 1.0}}}
       for name in ("constraint", "deepen", "concretise", "reasoning", "breadth")},
    "expand.easier_share": {"expand": {"easier_share": 0.4}},
    "curriculum.weights_by": {"curriculum": {"weights_by": "ddk", "difficulty": {"select": "none"}}},
    **{f"curriculum.ddk.{key}": {"curriculum": {"ddk": {key: 0.3}}} for key in ("share", "strength")},
    "control": {"control": "sft", "holdout": {"rows": 0}},
    "curriculum.stop_when": {"curriculum": {"stop_when": "no_gain"}, "holdout": {"rows": 0}},
    "teacher.sampling.max_tokens": {"teacher": {"max_completion_tokens": 9, "sampling": {"max_tokens": 9}}},
    **{f"elad.{key}": {"elad": {key: value}}
       for key, value in {
           "annotations": 9, "max_annotations": 9000, "max_tokens": 9, "max_cost": 9.0, "select": "random",
           "quota": "none",
           "samples": 3, "temperature": 0.5, "max_prefixes": 3, "step_pattern": "\n", "revise": "rewrite",
           "attempts": 3,
       }.items()},
    **{f"expand.{key}": {"method": "elad", "expand": {key: value}}
       for key, value in {
           "size": 9, "examples": 3, "sources": {"hard": 0.5, "easy": 0.5}, "temperature": 0.5, "annotation": "m:f",
       }.items()},
    **{f"mix.{key}": {"method": "elad", "mix": {key: value}}
       for key, value in {"unit": "pairs", "size": 9, "max_repeat": 9}.items()},
    **{f"curriculum.difficulty.{key}": {"method": "elad", "curriculum": {"difficulty": {key: value}}}
       for key, value in {"select": "none", "on_small_pool": "move_alpha"}.items()},
    "curriculum.stop_rounds": {"curriculum": {"stop_rounds": 3}},
    "simulator.revision_error_rate": {"simulator": {"seed_rows": 9, "revision_error_rate": 0.1}},
    "method": {"method": "elad", "regenerate": {"operations": ["filter"]}},
}  # fmt: skip


@pytest.mark.parametrize("key", PAIRS)
def test_a_key_that_another_key_silences_is_refused(key: str) -> None:
    with pytest.raises(InputError) as error:
        parse({**SMALL, **PAIRS[key]})
    assert f"{key} has no effect" in str(error.value)
    assert "\n" not in str(error.value)


def test_every_silenced_key_has_a_case() -> None:
    """The roles share the keys of an endpoint, so one case covers them all."""
    roles = {"judge": "teacher", "student.endpoint": "teacher"}
    known = set(PAIRS) | {key.replace("judge.", "teacher.") for key in PAIRS}
    for silence in SILENCES:
        for key in silence.keys:
            names = {key, *(key.replace(f"{role}.", f"{other}.", 1) for role, other in roles.items())}
            assert names & known, key


@pytest.mark.parametrize("select", ["frontier", "none"])
def test_a_threshold_without_the_selection_of_hard_rows_is_refused(select: str) -> None:
    difficulty = {"select": select, "threshold": 3}
    with pytest.raises(InputError, match=rf"threshold has no effect with curriculum\.difficulty\.select {select}"):
        parse({**SMALL, "curriculum": {"difficulty": difficulty}})
    file = parse({**SMALL, "curriculum": {"difficulty": {"threshold": 3}}})
    given = changed(file, [f"curriculum.difficulty.select={select}"])
    assert given.curriculum.difficulty.select == select, "an override wins over the file"


def test_a_smallest_hard_pool_without_a_hard_row_to_expand_is_refused() -> None:
    sections = {"curriculum": {"difficulty": {"min_hard_share": 0.1}}, "expand": {"sources": {"random": 1}}}
    with pytest.raises(InputError, match=r"min_hard_share has no effect with expand\.sources\.hard 0"):
        parse({**SMALL, **sections})
    assert parse({**SMALL, "mix": {"fill": "unscored", "size": 9}}).mix.fill == "unscored"


def test_a_judge_of_new_answers_is_no_contradiction_to_a_measure_without_one() -> None:
    judged = {**SMALL, "judge": {"model": "j"}, "curriculum": {"difficulty": {"measure": NO_JUDGE}}}
    assert parse({**judged, "respond": {"min_score": 5}}).judges
    with pytest.raises(
        InputError, match=r"judge\.model has no effect with a curriculum\.difficulty\.measure that needs"
    ):
        parse(judged)
    given = [f"curriculum.difficulty.measure={NO_JUDGE}"]
    assert not changed(parse({**SMALL, "judge": {"model": "j"}}), given).judges, "an override wins over the file"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_teacher_score", 3),
        ("mode", "pointwise"),
        ("both_orders", True),
        ("repeat_share", 0.1),
        ("repeat_temperature", 0.5),
    ],
)
def test_a_judge_of_new_answers_alone_compares_nothing(key: str, value: Any) -> None:
    """New answers are scored one by one, but a suite may compare two."""
    judged = {**SMALL, "judge": {"model": "j", key: value}, "respond": {"min_score": 5}}
    alone = {**judged, "curriculum": {"difficulty": {"measure": NO_JUDGE}}}
    with pytest.raises(InputError, match=rf"judge\.{key} has no effect .* that needs no judge: no two answers"):
        parse(alone)
    assert parse(judged).judges
    assert parse({**alone, "evaluate": {"suites": ["holdout", "tests.evaluate.test_registry:Judged"]}}).judges


def test_verifiers_grade_new_answers_and_samples_without_a_judge_of_two_answers() -> None:
    alone = {**SMALL, "judge": {"verifiers": ["reference_number"]}, "curriculum": {"difficulty": {"measure": NO_JUDGE}}}
    assert parse({**alone, "respond": {"min_score": 5}}).judges
    sampled = {**alone, "curriculum": {"difficulty": {"measure": "frontier", "top_fraction": 0.3}}}
    assert not parse(sampled).judges
    with pytest.raises(InputError, match=r"judge\.verifiers has no effect with .* nor verified samples"):
        parse(alone)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"holdout": {"rows": 0}}, "holdout.rows 0"),
        ({"curriculum": {"rounds": 0}}, "curriculum.rounds 0"),
        ({"curriculum": {"difficulty": {"measure": NO_JUDGE}}}, "that needs no judge"),
        ({"student": {"model": "m", "engine": "openai", "endpoint": {"model": "s"}}}, "a student at an endpoint"),
        ({"regenerate": {"operations": ["filter"]}}, "the section regenerate"),
    ],
)
def test_a_control_that_cannot_be_compared_is_refused(sections: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=rf"control has no effect with .*{why}.*, or control none"):
        parse({**SMALL, "control": "sft", **sections})
    assert parse({**SMALL, "control": "none", **sections}).control == "none"


def test_a_rule_to_end_early_needs_a_round_to_leave_out() -> None:
    stops = {"rounds": 1, "stop_when": "no_gain"}
    with pytest.raises(InputError, match=r"curriculum\.stop_when has no effect with curriculum\.rounds below 2"):
        parse({**SMALL, "curriculum": stops})
    assert parse({**SMALL, "curriculum": {**stops, "rounds": 2}}).curriculum.stop_when == "no_gain"


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"student\.revision has no effect on a folder"):
        parse({**SMALL, "student": {"model": str(tmp_path), "revision": "main"}})
    assert parse({**SMALL, "student": {"model": "owner/name", "revision": "main"}}).student.revision == "main"


def test_an_override_may_silence_the_file_and_not_the_reverse() -> None:
    assert load(DEMO, ["classify.by=teacher"]).classify.by == "teacher"
    assert load(DEMO, ["holdout.rows=0"]).holdout.rows == 0
    with pytest.raises(InputError, match=r"threshold has no effect with curriculum\.difficulty\.top_fraction"):
        load(DEMO, ["curriculum.difficulty.threshold=1.5"])
    given = ["curriculum.difficulty.threshold=1.5", "curriculum.difficulty.top_fraction=null"]
    assert load(DEMO, given).curriculum.difficulty.threshold == 1.5


def test_a_config_that_a_run_wrote_contradicts_nothing(tmp_path: Path) -> None:
    """The file has every key, also those that others silence."""
    path = tmp_path / "config.yaml"
    for shipped in (ROOT / "configs").glob("*.yaml"):
        config = load(shipped, ["seed_data.path=a.jsonl"])
        path.write_text(config.dump())
        assert load(path) == config
    local = parse(
        {**SMALL, "teacher": {"max_completion_tokens": 9}, "holdout": {"rows": 0}, "cache": {"enabled": False}}
    )
    path.write_text(local.dump())
    assert load(path) == local


def test_the_rules_ignore_keys_that_nobody_gave() -> None:
    config = Config.model_validate({**SMALL, **PAIRS["cache.dir"]})
    refuse_contradictions(config, in_file=set(), in_overrides=set())
    with pytest.raises(ValueError):
        refuse_contradictions(config, in_file=set(), in_overrides={"cache.dir"})


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["score.max_rows=1", "score.max_rows=2"], "--set score.max_rows=2: --set score.max_rows=1 sets the same key"),
        (["teacher.model=a", "teacher={model: b}"], "sets the same key"),
        (["teacher={model: b}", "teacher.model=a"], "sets the same key"),
        (["teacher={sampling: {top_p: 0.5}}", "teacher.sampling={max_tokens: 5}"], "sets the same key"),
        (["teacher={model: a, model: b}"], "the key model is already"),
        (["a..b=1"], "write it as key.subkey=value"),
        ([".a=1"], "write it as key.subkey=value"),
        (["seed_data.path=data #1.jsonl"], "the value ends at the #"),
        (["train.lora={rank: 8, rank: 9}"], "the key rank is already"),
        (["train={lora: }"], "the section train.lora is empty"),
        (["seed_data.limit=0777"], "octal"),
        (["seed_data.revision=1234567"], "put it in quotes"),
        (["seed_data.limit.x=1", "score.max_rows=1"], "limit is a value, not a section"),
        (["scores.max_rows=1"], "scores: unknown key; did you mean score?"),
    ],
)
def test_mistaken_overrides_are_refused(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "seed_data": {"path": "a", "limit": 5}}))
    with pytest.raises(InputError) as error:
        load(path, overrides)
    assert sentence in str(error.value)


def test_overrides_are_parsed_like_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("teacher: &t {model: a}\njudge: *t\nname: x\nseed_data: {path: a}\nstudent: {model: m}\n")
    config = load(path, ["train.learning_rate=1e-2", "teacher.model=b", 'seed_data.revision="1234567"'])
    assert config.train.learning_rate == 0.01
    assert (config.teacher.model, config.judge.model) == ("b", "a")
    assert config.seed_data.revision == "1234567"
    both = load(path, ["teacher={model: c}", "teacher.sampling.max_tokens=5", "teacher.sampling.top_p=0.5"]).teacher
    assert (both.model, both.sampling.max_tokens, both.sampling.top_p) == ("c", 5, 0.5)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"train": {"schedule": "whole", "init_from": "base"}}, "set train.init_from previous or train.schedule"),
        ({"rewrite": {"tasks": "Math"}}, r"write a list of tasks, such as \[Math\], or all"),
        ({"rewrite": {"mark": True}, "regenerate": {"operations": ["filter"]}}, "mark has no effect in a regen"),
        (
            {"rewrite": {"tasks": []}, "seed_data": {"path": "a", "task_column": "t"}, "classify": {"by": "column"},
             "regenerate": {"operations": ["rewrite"]}},
            "the operation rewrite needs a task in rewrite.tasks",
        ),
    ],
    ids=["two students", "no list", "regeneration", "nothing to rewrite"],
)  # fmt: skip
def test_styles_and_schedules_that_contradict_another_key_are_refused(sections: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse({**SMALL, **sections})


def test_plain_answers_alone_and_the_defaults_are_no_contradiction() -> None:
    assert parse({**SMALL, "rewrite": {"tasks": []}}).rewrite.tasks == []
    assert parse({**SMALL, "rewrite": {"mode": "combined", "tasks": ["Math"], "mark": True}}).rewrite.mark
    assert parse({**SMALL, "train": {"schedule": "per_round"}, "curriculum": {"rounds": 1}})
    wrong = ["simulator.seed_error_rate=0.2"]
    assert load(DEMO, wrong).simulator.seed_error_rate == 0.2  # type: ignore[union-attr]
    assert changed(load(DEMO, wrong), ["seed_data.path=mine.jsonl"]).simulator.seed_error_rate == 0  # type: ignore[union-attr]
