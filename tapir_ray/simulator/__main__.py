"""Command line of the simulator: `python -m tapir_ray.simulator --scenario tasks|FILE [--port N] [--log FILE]`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import MISSING, fields
from typing import Any

from tapir_ray.errors import TapirError
from tapir_ray.simulator.options import Options, flag
from tapir_ray.simulator.server import serve

TYPES = {"int": int, "float": float, "int | None": int}
SWITCHED = {"true": True, "false": False}


def main(arguments: list[str] | None = None) -> int:
    """Serves until a signal ends it; returns the exit status: 0, or 2 for options that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m tapir_ray.simulator", description="A simulated teacher and judge.")
    for field in fields(Options):
        default = None if field.default is MISSING else field.default
        if str(field.type) == "bool":
            switch: dict[str, Any] = {"type": _switch, "nargs": "?", "const": True, "metavar": "true|false"}
            parser.add_argument(flag(field.name), dest=field.name, default=default, **switch)
            continue
        parser.add_argument(flag(field.name), dest=field.name, type=TYPES.get(str(field.type), str), default=default)
    parser.add_argument("--parent", type=int, help="end when the process of this id is no longer the parent")
    values: dict[str, Any] = vars(parser.parse_args(arguments))
    parent = values.pop("parent")
    try:
        serve(Options(**values), parent=parent)
    except (TapirError, OSError) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 2)
    return 0


def _switch(text: str) -> bool:
    if text.lower() not in SWITCHED:
        raise argparse.ArgumentTypeError(f"{text!r} must be true or false")
    return SWITCHED[text.lower()]


if __name__ == "__main__":
    sys.exit(main())
