"""Measures training and inference on one GPU, in pieces of a few minutes, without a network.

    python benchmarks/gpu.py matmul                                        # is the card what it says?
    python benchmarks/gpu.py train --out pieces.jsonl                      # once as it is by default, then for example
    python benchmarks/gpu.py train --attention nested --micro 8 --out pieces.jsonl
    python benchmarks/gpu.py infer --out pieces.jsonl
    python benchmarks/gpu.py join pieces.jsonl                             # writes benchmarks/results/gpu.json
    python benchmarks/gpu.py train --device cpu --size tiny                # whether it runs at all

train: a Llama of 1.1B parameters made from its config, bfloat16, packed sequences of 2,048, through our engine and
step in one process (benchmarks/gpu_train.py). Reports tokens per second and model FLOPs utilisation: the needed FLOP/s
(benchmarks/flops.py defines them) as a share of the card's matrix rate, measured just before. infer: the student stage
against `vllm.LLM.chat` (benchmarks/gpu_infer.py). Each prints a table, and `--out` adds a line to a file. join:
`gain SETTING` is a setting's tokens per second over those of the defaults; of pieces measured twice the later counts.

train needs no Ray, but torch, transformers, deepspeed, pyarrow, pydantic, pyyaml, jinja2 and filelock; flash-attn or
liger-kernel for the settings of that name. infer needs ray and vllm.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).absolute().parents[1])  # not this folder: its requests.py would hide a package

import argparse
import dataclasses
import importlib
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

RESULT = Path(__file__).absolute().parent / "results" / "gpu.json"
BAR = 0.45
PARTS = ("matmul", "train", "infer")
NEEDED = {"flash_attention_2": "flash_attn", "liger": "liger_kernel"}
"""Package that a value of a setting needs."""
NOT_IN_A_CONFIG = {
    "attention=nested", "optimizer=plain", "loss=liger", "loss=full", "layers=liger", "layers=compiled"
}  # fmt: skip
"""Settings that were tried and that a config cannot set."""


def main() -> int:
    options = arguments()
    if options.part == "join":
        join([json.loads(line) for file in options.pieces for line in file.read_text().splitlines()], options.out)
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; --device cpu --size tiny only tries whether the script runs")
    device = torch.device(options.device)
    name, figures, packages = {"matmul": matmul, "train": train, "infer": infer}[options.part](options, device)
    piece = {
        "part": options.part,
        "name": name,
        "device": device_name(device),
        "size": getattr(options, "size", None),
        "figures": figures,
        "machine": machine(device),
        "versions": {package: version_of(package) for package in packages},
        "date": datetime.now(UTC).date().isoformat(),
    }
    table({f"{options.part} {name}": piece["device"]} | figures)
    if options.out is not None:
        with options.out.open("a") as file:
            file.write(json.dumps(piece) + "\n")
    return 0


def matmul(options: argparse.Namespace, device: torch.device) -> tuple[str, dict[str, Any], list[str]]:
    """Measures TFLOP/s by shape. Returns the piece's name, its figures and the packages that it used."""
    from benchmarks.flops import matrix_rates

    rates = {shape: rate / 1e12 for shape, rate in matrix_rates(device).items()}
    return "bfloat16", {"best_tflops": max(rates.values()), "tflops": rates}, ["torch"]


def train(options: argparse.Namespace, device: torch.device) -> tuple[str, dict[str, Any], list[str]]:
    """Measures a training with the settings of the options."""
    needed = [NEEDED[value] for value in (options.attention, options.loss, options.layers) if value in NEEDED]
    require("this setting", *needed, "deepspeed")
    from benchmarks.gpu_train import Setting, measure

    setting = Setting(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Setting)})
    try:
        figures = measure(options.size, setting, device, options.rounds)
    except torch.OutOfMemoryError as error:
        raise SystemExit(
            f"{setting.changed()}: the GPU's memory is too small; try a smaller --micro ({error})"
        ) from error
    return (
        setting.changed(),
        {"bar_mfu": BAR, **figures},
        [*dict.fromkeys(needed), "deepspeed", "torch", "transformers"],
    )


def infer(options: argparse.Namespace, device: torch.device) -> tuple[str, dict[str, Any], list[str]]:
    """Measures the student stage against `LLM.chat`."""
    require("infer", "ray", "vllm")
    from benchmarks.gpu_infer import measure

    return "stage", measure(options.size, device, options.rounds), ["ray", "vllm", "torch", "transformers"]


def require(who: str, *packages: str) -> None:
    """Exits with a sentence if a package is not installed."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise SystemExit(f"{who} needs {' and '.join(missing)}, not installed here")


def join(pieces: list[dict[str, Any]], file: Path) -> None:
    """Writes the result of the pieces, all of one device and size."""
    if not any(piece["part"] == "train" and piece["name"] == "default" for piece in pieces):
        raise SystemExit("no piece is a `train` with the default settings, which the others are compared with")
    if len(devices := {piece["device"] for piece in pieces}) > 1:
        raise SystemExit(f"the pieces are of several devices, which do not compare: {', '.join(sorted(devices))}")
    if file == RESULT and devices == {"cpu"}:
        raise SystemExit(f"the pieces were measured without a GPU: {RESULT.name} is not for them (name another --out)")
    found: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    versions: dict[str, str] = {}
    for piece in pieces:
        found[piece["part"]][piece["name"]] = piece["figures"]
        versions |= piece["versions"]
    from benchmarks.result import save

    ratios = ratios_of(found["train"], found["infer"])
    table(ratios)
    save(file, ratios, found, pieces[-1]["machine"], versions, max(piece["date"] for piece in pieces))


def ratios_of(trained: Mapping[str, dict[str, Any]], asked: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Returns ratios by name: utilisation by default, its best with settings of a run and with any setting, the gain
    of each setting, and the student stage's ratio.
    """
    default = trained["default"]
    tried = {name for name in trained if set(name.split(",")) & NOT_IN_A_CONFIG}
    ratios = {
        "mfu": max(figures["mfu"] for name, figures in trained.items() if name not in tried),
        "mfu default": default["mfu"],
    }
    if tried:
        ratios["mfu experimental"] = max(trained[name]["mfu"] for name in tried)
    for name, figures in trained.items():
        if name != "default":
            ratios[f"gain {name}"] = figures["tokens_per_second"] / default["tokens_per_second"]
    return ratios | {f"{name} against LLM.chat": figures["ratio"] for name, figures in asked.items()}


def table(rows: Mapping[str, Any]) -> None:
    for name, value in rows.items():
        if isinstance(value, dict):
            table({f"{name} {key}": inner for key, inner in value.items()})
        else:
            print(f"{name:56} {f'{value:12.4g}' if isinstance(value, float) else value}", flush=True)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def machine(device: torch.device) -> str:
    gpu = "no GPU"
    if device.type == "cuda":
        gpu = f"{device_name(device)}, {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB"
    return f"{platform.machine()}, {os.cpu_count()} cores, {gpu}"


def version_of(package: str) -> str:
    """Returns the version of the installed package, or of the module if it is only a folder on the path."""
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(importlib.import_module(package), "__version__", "unknown"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in PARTS:
        part = parts.add_parser(name)
        part.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
        part.add_argument("--out", type=Path, help="file that the result is added to, as a line")
        if name != "matmul":
            part.add_argument("--size", choices=("1.1B", "tiny"), default="1.1B")
            part.add_argument("--rounds", type=int, default=3, help="the result is their median")
            part.add_argument("--quick", dest="rounds", action="store_const", const=1, help="one round")
        if name == "train":
            part.add_argument("--zero", type=int, choices=(0, 1, 2, 3), default=2)
            part.add_argument("--attention", choices=("sdpa", "flash_attention_2", "nested"), default="sdpa")
            part.add_argument("--optimizer", choices=("fused", "plain"), default="fused")
            part.add_argument("--loss", choices=("chunked", "liger", "full"), default="chunked")
            part.add_argument("--layers", choices=("plain", "liger", "compiled"), default="plain")
            part.add_argument("--checkpointing", action="store_true", help="of gradients")
            part.add_argument("--micro", type=int, default=4, help="sequences a forward pass")
    joined = parts.add_parser("join")
    joined.add_argument("pieces", type=Path, nargs="+")
    joined.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
