"""`tapir serve` and `tapir chat`: a student of a run, or any model, behind vLLM's own OpenAI server on loopback.

serve("runs/mine", None, 8000, [], print)                # until Ctrl-C
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapir_ray.api.subjects import run_at
from tapir_ray.config import Config, changed, parse
from tapir_ray.data.storage import is_remote
from tapir_ray.errors import InputError
from tapir_ray.llm.serve.application import check_model
from tapir_ray.llm.serve.local_server import Server, Settings, served
from tapir_ray.methods import layout_of
from tapir_ray.report.export.students import student_of

WATCH_S = 1.0


def serve(target: str, which: str | None, port: int, overrides: Sequence[str], say: Callable[[str], None]) -> None:
    """Serves until Ctrl-C or SIGTERM. Raises InputError as `settings_of` does, and StageError if the server ends."""
    settings = settings_of(target, which, port, overrides)
    with ended_by_signals(), served(settings, say) as server:
        say(f"{server.name} answers at {server.url}, until Ctrl-C")
        say(curl(server))
        while server.process.poll() is None:
            time.sleep(WATCH_S)


def curl(server: Server) -> str:
    """Returns a command line that asks the server."""
    body = json.dumps({"model": server.name, "messages": [{"role": "user", "content": "What is 2 + 3?"}]})
    return f"curl {server.url}/chat/completions -H 'Content-Type: application/json' -d '{body}'"


def settings_of(target: str, which: str | None, port: int, overrides: Sequence[str]) -> Settings:
    """Returns the settings of a server.

    A run's student has those of the run's engine (`student`, `resources.student`), any other model those of
    `overrides` and else vLLM's own. Raises InputError for a target that is neither a run nor a model, and for a model
    folder that cannot be served.
    """
    run = run_at(target)
    if run is None:
        config = model_config(target, overrides)
        model = str(config.student.model)
        check_model(model, "MODEL")
        if which is not None:
            raise InputError(f"--student {which}: {target} is a model and has no other students: leave it out")
        student = config.student
        given = student.model_fields_set
        fit = "max_model_len" not in given and "max_model_len" not in student.engine_kwargs
        return Settings(model, _name(target), student, config.resources.student, port, "sampling" in given, fit)
    config = changed(run.stored_config(), list(overrides))
    chosen = student_of(run, config, layout_of(config), which)
    check_model(chosen.model, f"the student of {run.uri}")
    return Settings(chosen.model, config.name, config.student, config.resources.student, port)


def model_config(model: str, overrides: Sequence[str]) -> Config:
    """Returns a config whose student is a model, with the keys of `overrides` changed."""
    place = model if is_remote(model) or not Path(model).is_dir() else str(Path(model).resolve())
    content: dict[str, Any] = {
        "name": "model",
        "seed_data": {"path": "none"},
        "student": {"model": place},
        # Nothing is trained: without it a shorter `student.max_model_len` would be refused.
        "train": {"sequence_length": 1},
    }
    return changed(parse(content), list(overrides))


def _name(model: str) -> str:
    return model.partition("?")[0].rstrip("/").rpartition("/")[2] or "model"


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Context manager that a SIGTERM, a closed terminal and Ctrl-C end without an error."""

    def end(number: int, _: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
