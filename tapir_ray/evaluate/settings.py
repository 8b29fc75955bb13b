"""Settings that the results of a suite depend on: its section `evaluate.NAME`, with the content of its files.

settings_of(config, "ifeval")       # {"path": "sha256:2c26b46b68ffc68f"}: moving the file changes nothing
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tapir_ray.config import Config, Section
from tapir_ray.config.evaluate import split_spec
from tapir_ray.config.keys import without_neutral


def settings_of(config: Config, spec: str) -> dict[str, Any]:
    """Returns the section of the suite `spec` as JSON values; a path of a local file is the hash of its content.

    Without keys on which no result depends. Empty for a suite without a section.
    """
    section = getattr(config.evaluate, split_spec(spec)[0], None)
    if not isinstance(section, Section):
        return {}
    return {name: _content(value) for name, value in without_neutral(section).items()}


def _content(value: Any) -> Any:
    if isinstance(value, str) and "\n" not in value and Path(value).is_file():
        return f"sha256:{hashlib.sha256(Path(value).read_bytes()).hexdigest()[:16]}"
    return value
