"""Configs in the package, by name: `demo`, `openai_teacher`, …

shipped_configs()["demo"]                  # …/tapir_ray/config/experiments/demo.yaml
purpose(shipped_configs()["demo"])         # the first sentence of its comment
"""

from __future__ import annotations

from pathlib import Path

from tapir_ray.errors import InputError

FOLDER = Path(__file__).parent / "experiments"
"""In the checkout it has a link to each file of `configs/`; in a wheel it has the files."""


def shipped_configs() -> dict[str, Path]:
    """Returns the files of the shipped configs by name, sorted."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.yaml"))}


def shipped(name: str) -> Path:
    """Returns the file of a shipped config. Raises InputError that lists the names for an unknown one."""
    found = shipped_configs()
    if name not in found:
        raise InputError(f"there is no shipped config {name}; there are {', '.join(found)}")
    return found[name]


def purpose(file: Path) -> str:
    """Returns the first sentence of the comment at the top of a config."""
    text = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = f"{text} {line.lstrip('# ')}"
        if ". " in f"{text} " or line.endswith((".", ":")):
            break
    return text.strip().partition(". ")[0].rstrip(".:")
