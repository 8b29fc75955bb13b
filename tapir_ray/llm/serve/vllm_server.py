"""vLLM's own OpenAI server for one model, as the process that `local_server.py` starts.

    python -m tapir_ray.llm.serve.vllm_server < settings.json           # the first line; ends with its standard input

The engine has the arguments that the run's engine has. The chat template and the ends of turns are those of training.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from tapir_ray.config import Replicas, Student
from tapir_ray.llm.engine.requests import engine_arguments
from tapir_ray.run.model_store import local
from tapir_ray.train.chat import shared_stop_token_ids, shared_tokenizer

FIT = -1
"""Value of `max_model_len` with which vLLM takes the longest that fits into its memory."""


def overrides(settings: dict[str, Any], on_cpus: bool) -> dict[str, Any]:
    """Returns vLLM's arguments for the settings of `local_server.Settings`; `on_cpus` is vLLM's build for CPUs."""
    student, replicas = Student(**settings["student"]), Replicas(**settings["replicas"])
    if on_cpus:
        # A run on GPUs may be tried on a machine without any.
        replicas = replicas.model_copy(update={"gpus": 0.0, "tensor_parallel": 1})
    model = settings["model"]
    tokenizer = shared_tokenizer(model, student)
    generation: dict[str, Any] = {"eos_token_id": shared_stop_token_ids(model, student)}
    if settings["samples_as_run"]:
        generation |= {"temperature": student.sampling.temperature, "top_p": student.sampling.top_p}
    arguments = engine_arguments(model, student, replicas)
    if settings["fit"]:
        arguments["max_model_len"] = FIT
    return {
        **arguments,
        "model": local(model),
        "served_model_name": [settings["name"]],
        "host": settings["host"],
        "port": settings["port"],
        "chat_template": tokenizer.chat_template,
        "default_chat_template_kwargs": student.chat_template_kwargs or None,
        "override_generation_config": generation,
        "disable_uvicorn_access_log": True,
        "uvicorn_log_level": "warning",
    }


def end_with_parent() -> None:
    """Kills the whole process group once standard input ends: the command that holds it has died."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serves until SIGTERM."""
    settings = json.loads(sys.stdin.buffer.readline())
    if os.getpgrp() == os.getpid():
        end_with_parent()
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.platforms import current_platform
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    # As values and not as flags: `engine_kwargs` may hold dicts and lists.
    for name, value in overrides(settings, current_platform.is_cpu()).items():
        setattr(args, name, value)
    validate_parsed_serve_args(args)
    uvloop.run(run_server(args))


if __name__ == "__main__":
    main()
