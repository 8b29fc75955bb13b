"""Environment variables are forwarded to a job by name, and no others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tapir_ray.cluster.jobs import env_vars
from tapir_ray.errors import InputError


def test_only_named_variables_are_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPIR_ONE", "1")
    monkeypatch.setenv("TAPIR_EMPTY", "")
    monkeypatch.setenv("TAPIR_TWO", "2")
    assert env_vars.named(["TAPIR_ONE", "TAPIR_EMPTY"]) == {"TAPIR_ONE": "1", "TAPIR_EMPTY": ""}
    assert env_vars.named([]) == {}


def test_an_error_does_not_repeat_a_value_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAPIR_NONE", raising=False)
    with pytest.raises(InputError, match="--env TAPIR_NONE: this variable is not set here"):
        env_vars.named(["TAPIR_NONE"])
    with pytest.raises(InputError, match="a name without a value") as error:
        env_vars.named(["TAPIR_NONE=sk-planted"])
    assert "planted" not in str(error.value)


def test_variables_are_set_in_the_jobs_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAPIR_ONE", "the cluster's")
    env_vars.load()
    assert os.environ["TAPIR_ONE"] == "the cluster's"
    (tmp_path / env_vars.FILE).write_text(json.dumps({"TAPIR_ONE": "the user's"}))
    env_vars.load()
    assert os.environ["TAPIR_ONE"] == "the user's"
