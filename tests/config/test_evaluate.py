"""Names of suites, and a config that only measures a model: it needs neither seed data nor a teacher."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import Config, parse
from tapir_ray.config.evaluate import name_of, split_spec
from tapir_ray.errors import InputError


def config(**sections: Any) -> Config:
    return parse({"name": "x", "student": {"model": "m"}, **sections})


def only(*suites: str, **sections: Any) -> Config:
    return config(**sections, evaluate={"only": True, "suites": list(suites)})


def test_the_name_of_a_suite_is_that_of_its_table() -> None:
    assert [name_of(spec) for spec in ("holdout", "my.suites:Capitals", "mt_bench:MtBench")] == [
        "holdout", "Capitals", "MtBench"
    ]  # fmt: skip
    assert split_spec("lm_eval:a,b-c") == ("lm_eval", "a,b-c") and name_of("lm_eval:a,b-c") == "lm_eval.a.b_c"


@pytest.mark.parametrize(
    ("evaluate", "says"),
    [
        ({"suites": ["holdout", "lm_eval"]}, "write lm_eval:TASK"),
        ({"suites": ["holdout", "my:initial"]}, "no suite can have the name initial"),
        ({"suites": ["holdout", "a:X", "b:X"]}, "two suites have the name X"),
        ({"students": ["initial"]}, "students lacks last"),
        ({"only": True, "suites": ["holdout"]}, "seed_data.path is missing"),
    ],
)
def test_a_suite_that_cannot_have_a_table_is_refused(evaluate: dict[str, Any], says: str) -> None:
    seed = {} if "only" in evaluate else {"seed_data": {"path": "a.jsonl"}}
    with pytest.raises(InputError, match=says):
        config(**seed, evaluate=evaluate)


def test_a_model_is_measured_without_seed_data_and_teacher() -> None:
    found = only("ifeval", student={"model": "m", "max_model_len": 64})
    assert found.work == "evaluate" and not found.judges and found.endpoints == {}


def test_a_judged_suite_needs_the_judge_alone() -> None:
    own = only("mt_bench", judge={"model": "j", "base_url": "http://127.0.0.1:9/v1", "api_key_env": None})
    assert list(own.endpoints) == ["judge"]
    assert list(only("mt_bench").endpoints) == ["teacher"], "the teacher is the judge"


def test_a_run_keeps_its_teacher() -> None:
    assert list(config(seed_data={"path": "a.jsonl"}).endpoints) == ["teacher"]
