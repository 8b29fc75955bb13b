"""Engine specs: the config's knowledge of engines; no other module asks for an engine by its name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import tapir_ray
from tapir_ray.config import Endpoint, Resources, parse
from tapir_ray.config.engines import SPECS, spec_of
from tapir_ray.errors import InputError
from tapir_ray.llm.engine.registry import ENGINES

ROOT = Path(tapir_ray.__file__).parent
SMALL: dict[str, Any] = {"name": "x", "seed_data": {"path": "a"}, "student": {"model": "m"}}


def test_each_spec_has_an_engine_class() -> None:
    assert {name: engine.spec for name, engine in ENGINES.items()} == SPECS


def test_no_module_compares_an_engines_name() -> None:
    found = []
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare):
                found += [(file.name, one.value) for one in ast.walk(node) if isinstance(one, ast.Constant)]
    assert found and not [(file, value) for file, value in found if value in SPECS]


def test_only_an_engine_run_by_tapir_claims_resources() -> None:
    resources = Resources.model_validate({"teacher": {"cpus": 3}})
    claims = {name: spec_of(name).claims(resources, "teacher") for name in SPECS}
    assert claims == {"openai": None, "openai_batch": None, "vllm": resources.teacher}


@pytest.mark.parametrize(
    ("given", "provider", "price"),
    [({"engine": "vllm"}, False, 0.0), ({"base_url": "simulator"}, False, 0.0), ({}, True, 4.0),
     ({"engine": "openai_batch"}, True, 2.0)],
)  # fmt: skip
def test_the_price_of_an_engine_follows_from_its_spec(given: dict[str, Any], provider: bool, price: float) -> None:
    if provider:
        given = {**given, "price": {"input": 4.0, "output": 1.0}}
    endpoint = Endpoint.model_validate({"model": "m", **given})
    assert endpoint.has_provider is provider
    assert endpoint.known_price is not None and endpoint.known_price.input == price


@pytest.mark.parametrize(
    ("student", "sentence"),
    [
        ({"engine": "openai"}, "student.engine openai needs student.endpoint"),
        ({"engine": "vllm", "endpoint": {"model": "s"}}, "runs the student here and takes no student.endpoint"),
        ({"engine": "openai_batch"}, "student.engine openai_batch cannot be used for the student; set openai or vllm"),
        (
            {"engine": "openai", "endpoint": {"model": "s", "engine": "openai_batch"}},
            "student.endpoint.engine must be openai, the same as student.engine",
        ),
    ],
)
def test_an_engine_that_cannot_serve_the_student_is_refused(student: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        parse({**SMALL, "student": {"model": "m", **student}})
    assert sentence in str(error.value)
