"""Configs as a program gives them: a path, a mapping or a `Config`.

configured("mine.yaml", {"curriculum.rounds": 3})
configured({"name": "mine", "seed_data": {"path": "rows.jsonl"}, …})
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tapir_ray.config import Config, changed, load, parse
from tapir_ray.config.yaml_files import read_yaml
from tapir_ray.errors import InputError

ConfigLike = str | os.PathLike[str] | Mapping[str, Any] | Config
"""Path of a YAML file, its content, or a config."""
Changes = Mapping[str, Any]
"""Values by key: `{"curriculum.rounds": 3}`, as `--set` on the command line."""


def configured(config: ConfigLike, changes: Changes | None = None) -> Config:
    """Returns a config with `changes` applied. Raises InputError that names the file and the key."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]
    if isinstance(config, Config):
        return _changed(config, overrides)
    if isinstance(config, Mapping):
        # A copy, because validation may change nested mappings.
        return _changed(parse(copy.deepcopy(dict(config))), overrides)
    return load(_path(config), overrides)


def content_of(config: ConfigLike) -> dict[str, Any]:
    """Returns the keys that a config gives, without defaults. Raises InputError for a file that is not a mapping."""
    if isinstance(config, Config):
        return config.model_dump(mode="json", exclude_unset=True)
    if isinstance(config, Mapping):
        return copy.deepcopy(dict(config))
    path = _path(config)
    try:
        found = read_yaml(path.read_bytes(), str(path)).value
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is empty or not a mapping of keys to values")
    return found


def place_of(config: Config, run_dir: str | os.PathLike[str] | None) -> str:
    """Returns the folder or URI of a run: `run_dir`, else that of the config, else `runs/NAME`."""
    return str(run_dir) if run_dir is not None else config.run_dir or f"runs/{config.name}"


def _changed(config: Config, overrides: list[str]) -> Config:
    return changed(config, overrides) if overrides else config


def _path(config: Any) -> Path:
    if not isinstance(config, (str, os.PathLike)):
        raise InputError(f"config is a {type(config).__name__}: give the path of a YAML file, a mapping or a Config")
    return Path(config)
