"""JSON schema of the config: accepts what `load` accepts among the shipped files, refuses a wrong key, has the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tapir_ray.config import Config
from tapir_ray.config.keys import section_of
from tapir_ray.config.schema import config_schema, write_schema
from tapir_ray.config.section import Section
from tapir_ray.config.shipped import shipped_configs
from tapir_ray.config.yaml_files import read_yaml


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", shipped_configs())
def test_the_schema_accepts_a_shipped_config(validator: jsonschema.Draft202012Validator, name: str) -> None:
    content = read_yaml(shipped_configs()[name].read_bytes(), name).value
    assert [error.message for error in validator.iter_errors(content)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"nam": "x"},
        {"name": "x", "teacher": {"modell": "m"}},
        {"name": "x", "train": {"lora": {"rnak": 3}}},
        {"name": "x", "control": "sfd"},
        {"name": "x", "curriculum": {"rounds": "two"}},
        {"name": "x y"},
    ],
)
def test_the_schema_refuses_a_wrong_key_or_value(
    validator: jsonschema.Draft202012Validator, wrong: dict[str, Any]
) -> None:
    assert list(validator.iter_errors(wrong))


def test_docstrings_of_keys_are_their_descriptions(tmp_path: Path) -> None:
    """Editors show them. The number guards against a change after which no docstring is found any more."""
    schema = config_schema()
    assert schema["$defs"]["Endpoint"]["properties"]["base_url"]["description"].startswith("URL of the endpoint")
    # The judge inherits the keys of an endpoint.
    assert schema["$defs"]["Judge"]["properties"]["base_url"]["description"].startswith("URL of the endpoint")
    described = sum("description" in one for part in schema["$defs"].values() for one in part["properties"].values())
    assert described > 100
    write_schema(tmp_path / "schema.json")
    assert "invalidates" not in (tmp_path / "schema.json").read_text()


def test_the_schema_has_every_section() -> None:
    def sections(top: type[Section]) -> set[str]:
        below = {kind for field in top.model_fields.values() if (kind := section_of(field)) is not None}
        return {top.__name__}.union(*(sections(kind) for kind in below))

    assert sections(Config) - {"Config"} <= config_schema()["$defs"].keys()
