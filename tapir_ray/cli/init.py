"""`tapir init`: asks for student, teacher, seed data and hardware, and writes a commented config.

tapir init                                     # asks, on a terminal
tapir init mine.yaml --student … --seeds …     # flags; what is missing has a default
tapir init --from demo                         # a copy of a shipped config
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tapir_ray.config import load
from tapir_ray.config.schema import MODELINE, NAME, write_schema
from tapir_ray.config.shipped import purpose, shipped, shipped_configs
from tapir_ray.config.starter import KEY, SEEDS, STUDENT, TEACHER, Answers, hardware, starter
from tapir_ray.errors import InputError

FLAGS = ("student", "teacher", "base_url", "key_env", "seeds", "hardware")
OPENAI_URL = "https://api.openai.com/v1"
SUFFIXES = (".yaml", ".yml")


def listed() -> str:
    """Returns a line for each shipped config."""
    files = shipped_configs()
    width = max(map(len, files))
    return "\n".join(f"{name:<{width}}  {purpose(file)}" for name, file in files.items())


def answers_of(options: argparse.Namespace) -> Answers | None:
    """Returns the answers by flags, and on a terminal by questions; None for a copy of a shipped config.

    Raises InputError if a flag has no effect, or without a terminal and without any flag.
    """
    given = {name: getattr(options, name) for name in FLAGS if getattr(options, name) is not None}
    if options.source is not None:
        if given:
            flag = next(iter(given)).replace("_", "-")
            raise InputError(f"--{flag} has no effect with --from: change the key in the copy")
        return None
    if sys.stdin.isatty():
        given = _asked(given)
    elif not given:
        raise InputError(
            "tapir init asks on a terminal, and this is none: give --student, --teacher, --seeds and --hardware, or "
            "--from NAME (tapir init --list)"
        )
    key = given.get("key_env", KEY)
    return Answers(
        student=given.get("student", STUDENT),
        teacher=given.get("teacher", TEACHER),
        base_url=None if given.get("base_url") in (None, "", OPENAI_URL) else given["base_url"],
        key_env=None if key.lower() in ("", "none", "null") else key,
        seeds=given.get("seeds", SEEDS),
        gpus=hardware(given.get("hardware") or _machine()),
    )


def write(target: str, source: str | None, answers: Answers | None, schema: bool, force: bool) -> Path:
    """Writes a config to a file, or into a folder under the name of the config, and returns its path.

    `source` names a shipped config; without it `answers` make the text. With `schema` the JSON schema is written next
    to it, and the config names it. Raises InputError for a file that exists, unless `force` is set, and for answers
    that make no valid config.
    """
    path = Path(target)
    if path.suffix not in SUFFIXES:
        path = path / f"{source or 'tapir'}.yaml"
    if path.exists() and not force:
        raise InputError(f"{path} exists: name another file, or add --force to replace it")
    if source is not None:
        text = shipped(source).read_text(encoding="utf-8")
    else:
        assert answers is not None
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).lstrip("-._") or "mine"
        text = starter(Answers(**{**vars(answers), "name": name}))
    path.parent.mkdir(parents=True, exist_ok=True)
    if schema:
        write_schema(path.parent / NAME)
        text = f"{MODELINE}{NAME}\n{text}"
    if source is not None:
        path.write_text(text, encoding="utf-8")
        return path
    # Refused before a file is left behind.
    trial = path.with_name(f".{path.name}.new")
    try:
        trial.write_text(text, encoding="utf-8")
        load(trial)
        trial.replace(path)
    except InputError as error:
        raise InputError(str(error).replace(str(trial), "these answers")) from error
    finally:
        trial.unlink(missing_ok=True)
    return path


def _asked(given: dict[str, str]) -> dict[str, str]:
    """Returns the flags, completed by questions; an empty answer takes the proposal."""
    questions = {
        "student": ("student: HF name or folder of the model to train", STUDENT),
        "base_url": ("teacher's endpoint, OpenAI-compatible", OPENAI_URL),
        "teacher": ("teacher: name of the model at that endpoint", TEACHER),
        "key_env": ("environment variable with its key (none for no key)", KEY),
        "seeds": ("seed instructions: file, folder or hub id", SEEDS),
        "hardware": ("hardware: cpu, 1gpu, or a number of GPUs", _machine()),
    }
    for name, (question, proposal) in questions.items():
        if name not in given:
            given[name] = _ask(question, proposal)
    return given


def _ask(question: str, proposal: str) -> str:
    print(f"{question} [{proposal}]: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or proposal


def _machine() -> str:
    """Returns the hardware of this machine: `cpu`, or its number of GPUs."""
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    gpus = sum(line.startswith("GPU ") for line in found.splitlines())
    return f"{gpus}gpus" if gpus > 1 else "1gpu" if gpus else "cpu"
