"""Configs: every shipped file parses, and every mistake gets one sentence that names the key."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_ray.config import Config, load, parse
from tapir_ray.config.differences import differences
from tapir_ray.config.load import read_override
from tapir_ray.errors import InputError

SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SMALL = {"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}}
FILL, SETS = {"seed_data": {"path": "a", "responses": "fill"}}, {"filter": {"evaluation_sets": ["e.jsonl"]}}
LABELS, TRAINED = {"classify": {"by": "teacher"}}, {"classify": {"by": "deberta", "model": "m", "label_rows": 9}}
UNSEEN = {"score": {"candidates": "unseen"}}
STEPS = {"engine_kwargs": {"max_num_batched_tokens": 512}}
SEEDS, BALANCED = (
    {**LABELS, "curriculum": {"tasks": "seed"}},
    {"operations": ["classify", "rebalance"], "balanced_rows": 9},
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_parses(path: Path) -> None:
    # Some files leave seed_data.path to the user; they are parsed with a name in its place.
    config = load(path, ["seed_data.path=a.jsonl"])
    assert parse(yaml.safe_load(config.dump())) == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"student": {"model": "m", "engin": "vllm"}}, "student.engin: unknown key; did you mean engine?"),
        ({"seed_data": {"path": "a", "limit": "many"}}, "seed_data.limit: "),
        ({"curriculum": {"weights": {"Math": 0.4}}}, "curriculum.weights: the weights sum to 0.4000"),
        ({"student": {}}, "exactly one of student.model"),
        ({"seed_data": {}}, "seed_data.path is missing"),
        ({"teacher": {"base_url": "simulator"}}, "no simulator section"),
        ({"teacher": {"base_url": "http://me:secret@host/v1"}}, "name a variable in api_key_env"),
        ({"teacher": {"api_key_env": "sk-secret"}}, "write the name of an environment variable"),
        ({"classify": {"by": "column"}}, "needs seed_data.task_column"),
        ({"classify": {"by": "deberta"}}, "classify.model"),
        ({"train": {"sequence_length": 4096}}, "above student.max_model_len"),
        ({"train": {"global_batch_size": 3}, "resources": {"train": {"replicas": 2}}}, "not a multiple"),
        ({"train": {"attention": "flash_attention_2", "precision": "float32"}}, "set train.precision bfloat16"),
        ({"train": {"attention": "flash_attention_2"}}, "needs GPUs: set resources.train.gpus"),
        ({"name": "../x"}, "name: "),
        ({"expand": {"sources": {"hard": 0.5, "easy": 0.2}}}, "the shares (hard 0.5 + easy 0.2) sum to 0.7, but must"),
        ({"expand": {"sources": {"hard": 0}}}, "the shares (all shares 0) sum to 0"),
        ({"expand": {"sources": {"hrd": 1.0}}}, "expand.sources.hrd: unknown key; did you mean hard?"),
        ({"expand": {"probe_share": 1.0}}, "expand.probe_share: "),
        ({"train": {"initial_share": 0}}, "train.initial_share: "),
        ({**UNSEEN, "train": {"initial_sft": "on"}}, "unseen leaves round 1 without candidates"),
        (
            {**UNSEEN, "student": {"create": {}, "max_model_len": 512}, "train": {"sequence_length": 512}},
            "set train.initial_share below 1, train.initial_sft off, or score.candidates all",
        ),
        ({"student": {"create": {}}}, "student.max_model_len 2048 is above student.create.max_length 512"),
        ({"student": {"create": {"hidden_size": 100, "heads": 3}}}, "not a multiple of create.heads"),
        ({"student": {"model": "m", "engine": "openai"}}, "needs student.endpoint"),
        ({"student": {"model": "m", **STEPS}}, "student.engine_kwargs.max_num_batched_tokens 512 is below student."),
        ({"teacher": {"engine": "vllm", "model": "m", **STEPS}}, "teacher.engine_kwargs.max_num_batched_tokens 512"),
        ({"judge": {"same_as": "teacher", "model": "other"}}, "judge.model has no effect"),
        ({"budget": {"max_cost": 5}, "teacher": {"model": "mine"}}, "budget.max_cost needs teacher.price"),
        ({"respond": {"samples": 3}}, "set teacher.sampling.temperature"),
        ({"train": {"lora": {"target_modules": []}}}, "train.lora.target_modules"),
        ({"train": {"lora": {"ranks": 8}}}, "train.lora.ranks: unknown key; did you mean rank?"),
        (
            {"train": {"lora": {"between_rounds": "continue"}, "init_from": "base"}},
            "set train.init_from previous or train.lora.between_rounds merge",
        ),
        ({"resources": {"train": {"tensor_parallel": 2}}}, "resources.train.tensor_parallel has no effect"),
        ({"resources": {"judge": {"keep": True}}}, "resources.judge.keep has no effect"),
        ({"resources": {"train": {"min_replicas": 1}}}, "resources.train.min_replicas has no effect"),
        ({"resources": {"train": {"gpus": 0.5, "replicas": 2}}}, "training workers cannot share a GPU"),
        ({"resources": {"student": {"min_replicas": 2}}}, "min_replicas 2 is above replicas 1"),
        ({"resources": {"student": {"accelerator_type": "L4"}}}, "accelerator_type L4 needs gpus"),
        ({"regenerate": {"operations": []}}, "regenerate.operations"),
        ({"regenerate": {"operations": ["filter", "filter"]}}, "operations names filter twice"),
        ({"regenerate": {"operations": ["filter"], "shards": {"rows": 2_000_000}}}, "regenerate.shards.rows"),
        ({"regenerate": {"operations": ["answer"]}}, "answer needs seed_data.responses: fill"),
        ({**FILL, "regenerate": {"operations": ["filter"]}}, "fill has no effect without the operation answer"),
        (
            {**FILL, "regenerate": {"operations": ["answer", "judge"]}},
            "judge compares the file's answer with a new one",
        ),
        ({"evaluate": {"suites": []}}, "evaluate.suites lacks holdout"),
        ({"evaluate": {"suites": ["holdout", "a:holdout"]}}, "two suites have the name holdout"),
        ({"regenerate": {"operations": ["decontaminate"]}}, "decontaminate needs filter.evaluation_sets"),
        ({**SETS, "regenerate": {"operations": ["filter"]}}, "no effect without the operation decontaminate"),
        ({"regenerate": {"operations": ["classify"]}}, "classify needs classify.by deberta or teacher, not none"),
        ({**LABELS, "regenerate": {"operations": ["filter"]}}, "no effect without the operation classify"),
        ({"regenerate": {"operations": ["rewrite"]}}, "rewrite needs the task of each row"),
        ({**LABELS, "regenerate": {"operations": ["classify", "rebalance"]}}, "balanced_rows and the operation"),
        ({**SEEDS, "regenerate": BALANCED}, "curriculum.tasks seed keeps the task shares"),
        ({**TRAINED, "regenerate": {"operations": ["classify"]}}, "regenerate trains no classifier"),
    ],
)
def test_a_mistake_names_its_key(change: dict, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        parse({**SMALL, **change})
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_unseen_candidates_need_a_part_of_the_seed_data_that_is_not_trained_on() -> None:
    for train in ({"initial_sft": "on", "initial_share": 0.5}, {"initial_sft": "off"}, {}):
        assert parse({**SMALL, **UNSEEN, "train": train}).score.candidates == "unseen"
    no_round = {**UNSEEN, "train": {"initial_sft": "on"}, "curriculum": {"rounds": 0}}
    assert parse({**SMALL, **no_round}).curriculum.rounds == 0


def test_a_source_that_is_not_given_gets_no_draws() -> None:
    given = parse({**SMALL, "expand": {"sources": {"random": 1.0}}})
    assert given.expand.sources.shares == {"hard": 0.0, "easy": 0.0, "random": 1.0}
    assert parse(yaml.safe_load(given.dump())) == given
    assert parse(SMALL).expand.sources.shares == {"hard": 1.0, "easy": 0.0, "random": 0.0}


def test_short_steps_are_for_gpus_and_greedy_answers() -> None:
    student = {"model": "m", **STEPS}
    assert parse({**SMALL, "student": student, "resources": {"student": {"gpus": 1}}}).student.engine_kwargs
    student["engine_kwargs"] = {**STEPS["engine_kwargs"], "enable_chunked_prefill": True}
    assert parse({**SMALL, "student": student}).student.engine_kwargs


def test_the_judge_is_the_teacher_unless_it_is_given() -> None:
    for judge in ({}, {"mode": "pointwise"}, {"sampling": {"max_tokens": 9}}):
        assert parse({**SMALL, "judge": judge}).judge.same_as == "teacher"
    own = parse({**SMALL, "judge": {"model": "j", "base_url": "http://127.0.0.1:1/v1"}})
    assert own.judge.same_as is None
    assert own.judge_endpoint.model == "j"


@pytest.mark.parametrize("written", ["on", "off", "auto"])
def test_initial_sft_accepts_the_booleans_that_yaml_makes_of_on_and_off(written: str) -> None:
    train = yaml.safe_load(f"initial_sft: {written}")
    assert parse({**SMALL, "train": train}).train.initial_sft == written


def test_overrides_are_typed_values(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    config = load(path, ["curriculum.rounds=5", "train.learning_rate=1e-3", "curriculum.weights={Math: 1.0}"])
    assert (config.curriculum.rounds, config.train.learning_rate) == (5, 1e-3)
    assert config.curriculum.weights == {"Math": 1.0}
    with pytest.raises(InputError, match=r"key\.subkey=value"):
        load(path, ["curriculum.rounds"])
    with pytest.raises(InputError, match=r"--set name=\[: the value is not valid YAML"):
        load(path, ["name=["])


def test_the_digest_ignores_speed_and_covers_results() -> None:
    base = parse(SMALL).digest()
    assert parse({**SMALL, "resources": {"cpus": 9}, "run_dir": "elsewhere"}).digest() == base
    assert parse({**SMALL, "teacher": {"limits": {"in_flight": 1}}}).digest() == base
    assert parse({**SMALL, "cache": {"dir": "/shared/cache"}}).digest() == base
    assert parse({**SMALL, "teacher": {"engine": "openai_batch"}}).digest() == base
    assert parse({**SMALL, "train": {"gradient_checkpointing": True}}).digest() == base
    memory = {"gpu_memory_utilization": 0.7, "max_num_seqs": 8}
    student = {**SMALL["student"], "engine_kwargs": memory}
    assert parse({**SMALL, "student": student}).digest() == base
    assert parse({**SMALL, "student": {**student, "engine_kwargs": {"quantization": "fp8"}}}).digest() != base
    assert parse({**SMALL, "curriculum": {"alpha": 0.4}}).digest() != base
    assert parse({**SMALL, "random_seed": 1}).digest() != base
    lora, other = (parse({**SMALL, "train": {"lora": {"rank": rank}}}) for rank in (8, 16))
    assert len({base, lora.digest(), other.digest()}) == 3
    assert differences(lora, other) == {"train.lora.rank": (8, 16)}


def test_a_run_that_writes_its_seed_data_may_be_moved() -> None:
    simulated = {"simulator": {"seed_rows": 10}, "student": {"model": "m"}, "name": "x"}
    config = parse(simulated)
    written = [config.seed_data.model_copy(update={"path": path}) for path in ("/a/seed.jsonl", "/b/seed.jsonl")]
    assert len({config.model_copy(update={"seed_data": seed_data}).digest() for seed_data in written}) == 1
    assert (
        parse({**SMALL, "seed_data": {"path": "/a"}}).digest() != parse({**SMALL, "seed_data": {"path": "/b"}}).digest()
    )


def test_a_regeneration_needs_no_student_and_may_change_its_shards_in_progress() -> None:
    without = {"name": "x", "seed_data": {"path": "a.jsonl"}}
    with pytest.raises(InputError, match=r"exactly one of student\.model"):
        parse(without)
    one, two, cut = (
        parse({**without, "regenerate": {"operations": ["filter"], "shards": parts}})
        for parts in ({}, {"at_once": 2}, {"rows": 1000})
    )
    assert one.digest() == two.digest() != cut.digest()
    assert "rows: 1000000" in one.dump() and "at_once: 4" in one.dump()
    assert not one.regenerate.asks(one.classify)  # type: ignore[union-attr]


def test_a_judge_that_nothing_asks_is_no_endpoint() -> None:
    """It then needs no key, and no GPU is held by a model that is never asked."""
    own = {**SMALL, "judge": {"model": "j"}}
    answers = {"seed_data": {"path": "a", "responses": "replace"}, "regenerate": {"operations": ["answer"]}}
    assert "judge" in parse(own).endpoints
    assert "judge" not in parse({**own, **answers}).endpoints
    assert "judge" in parse({**own, **answers, "respond": {"min_score": 5}}).endpoints
    without = {"difficulty": {"measure": "tests.curriculum.test_measures:answer_length"}}
    assert not parse({**SMALL, "curriculum": without}).judges
    assert parse(
        {**SMALL, "curriculum": without, "respond": {"samples": 2}, "teacher": {"sampling": {"temperature": 0.7}}}
    ).judges
    assert parse({**SMALL, "curriculum": {"difficulty": {"measure": "not_here:f"}}}).judges
    assert "judge" in parse({**own, **answers, "regenerate": {"operations": ["answer", "judge"]}}).endpoints


def test_losses_of_a_student_behind_an_endpoint_are_refused() -> None:
    """Found before the first request: an endpoint gives answers, not losses."""
    student = {"model": "m", "engine": "openai", "endpoint": {"model": "s", "api_key_env": None}}
    losses = {"difficulty": {"measure": "tests.curriculum.test_measures:ratio"}}
    with pytest.raises(InputError, match=r"curriculum\.difficulty\.measure .*ratio needs the student's losses.*vllm"):
        parse({**SMALL, "student": student, "curriculum": losses})
    assert parse({**SMALL, "curriculum": losses}).measure_needs_losses
    for other in ("mfd", "tests.curriculum.test_measures:answer_length", "not_here:f"):
        assert not parse(
            {**SMALL, "student": student, "curriculum": {"difficulty": {"measure": other}}}
        ).measure_needs_losses
    answers = {"seed_data": {"path": "a", "responses": "replace"}, "regenerate": {"operations": ["answer"]}}
    parse({**SMALL, "student": student, "curriculum": losses, **answers})


def test_config_needs_neither_torch_nor_ray() -> None:
    code = "import sys, tapir_ray.config; sys.exit(bool({'torch', 'ray', 'vllm'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_loaded_config_is_frozen() -> None:
    config = parse(SMALL)
    with pytest.raises(ValueError):
        config.name = "y"  # type: ignore[misc]
    assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"thinking_marks": [["<t>", ""]]}, "two different texts"),
        ({"thinking_marks": [["--", "--"]]}, "two different texts"),
        ({"finish_reasons": {"done": "fine"}}, "teacher.finish_reasons.done"),
        ({"extra_body": {"stream": True}}, "stream is not supported"),
        ({"batch": {"max_bytes": 0}}, "teacher.batch.max_bytes"),
        ({"price": {"input": -1}}, "teacher.price.input"),
    ],
)
def test_keys_for_reading_replies_are_checked(teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse({**SMALL, "teacher": teacher})


def test_the_digest_covers_keys_for_reading_replies_and_ignores_batch_limits() -> None:
    plain = parse(SMALL)
    assert parse({**SMALL, "teacher": {"thinking_marks": [["[[", "]]"]]}}).digest() != plain.digest()
    assert parse({**SMALL, "teacher": {"finish_reasons": {"done": "stop"}}}).digest() != plain.digest()
    assert (
        parse({**SMALL, "teacher": {"engine": "openai_batch", "batch": {"max_bytes": 1000}}}).digest() == plain.digest()
    )


def test_the_share_that_warns_must_not_exceed_the_one_that_stops() -> None:
    with pytest.raises(InputError, match=r"warn_share 0.9 is above max_share 0.8"):
        parse({**SMALL, "filter": {"warn_share": 0.9}})


def test_an_override_with_a_line_break_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"^--set a b: write it as key\.subkey=value$"):
        read_override("a\nb")
