"""Compares the training speed of our worker with TRL and a bare loop, in useful (non-padding) tokens per second.

    python benchmarks/train.py [--quick] [--data ../shared/data/seeds/alpaca_9k.jsonl] [--rows N] [--rounds N]

A Llama of 17M parameters made from its config, float32, sequences of 512, Alpaca's lengths, loss on responses alone.
All contenders get the same token ids. Each round runs them in turn, compared ones next to each other, since the speed
of a machine drifts. A rate is the median of the rounds, a ratio that of two such rates.

- `ours_2`, `ours_1`: `train_student` with 2 workers (ZeRO-2) and with 1
- `trl_packed`: TRL's SFTTrainer by torchrun, 2 processes (DDP over gloo), its default settings except `packing`
- `trl_default`: its default settings (no packing, 8 pairs per process, padded)
- `trl_tuned`: packing, and no gradient checkpointing, which only costs time here
- `bare`: one process, `model(**batch).loss.backward()` over our packed sequences

TRL trains in float32 like the others, not in its default bfloat16. Micro-batches are 2 packed sequences for us (the
fastest of 1, 2 and 4 in one round each), 1 for TRL (its fastest) and the bare loop. A rate is timed from the end of the
first optimizer step to the end of the last; start-up (`startup_s`) is separate. Needs the extra `bench`. Writes
benchmarks/results/train.json.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(sys.path.pop(0)))  # not this folder, whose names hide packages that Ray imports

import argparse
import functools
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from benchmarks.result import data_folder, local_ray, show, write
from tapir_ray.config import CreateModel, Replicas, Resources, Student, Train
from tapir_ray.data.schemas import OK, TRAINING, conform, instruction_id, pair_id
from tapir_ray.train import loop
from tapir_ray.train.chat import IGNORED, encode_pair, load_tokenizer
from tapir_ray.train.create_student import create_student
from tapir_ray.train.student import train_student
from tapir_ray.transforms.pack import pack

HERE = Path(__file__).absolute().parent
FS = pafs.LocalFileSystem()
MODEL = CreateModel(hidden_size=384, intermediate_size=1536, layers=6, heads=6, vocab_size=8000, max_length=512)
TRAIN = Train(sequence_length=512, global_batch_size=8, micro_batch_size=2, precision="float32", zero_stage=2)
RATE = 3e-4
COMPARED = {
    "ours_against_trl_packed": ("ours_2", "trl_packed"),
    "ours_against_trl_default": ("ours_2", "trl_default"),
    "ours_against_trl_tuned": ("ours_2", "trl_tuned"),
    "ours_1_worker_against_bare_loop": ("ours_1", "bare"),
}


@dataclass(frozen=True)
class Material:
    """Material of all contenders: a model folder, a packed table, and the same pairs one by one."""

    folder: Path
    parameters: int
    pairs: int
    sequences: int
    filled: float
    """Share of the packed sequences that is not padding."""

    @property
    def model(self) -> str:
        return str(self.folder / "model")

    @property
    def packed(self) -> str:
        return str(self.folder / "packed")


@dataclass(frozen=True)
class Measured:
    """Measurement of one contender in one round."""

    tokens_per_second: float
    startup_s: float


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="train-", dir="/tmp"))
    try:
        with local_ray(folder):
            material = prepared(folder, options.data, options.rows)
            contenders = {
                "bare": functools.partial(by_bare_loop, material),
                "ours_1": functools.partial(by_us, material, 1),
                "trl_packed": functools.partial(by_trl, material, "trl_packed"),
                "ours_2": functools.partial(by_us, material, 2),
                "trl_tuned": functools.partial(by_trl, material, "trl_tuned"),
                "trl_default": functools.partial(by_trl, material, "trl_default"),
            }
            rounds: dict[str, list[Measured]] = {name: [] for name in contenders}
            for number in range(options.rounds):
                for name, run in contenders.items():
                    rounds[name].append(run(number))
                    print(
                        f"round {number + 1} {name:12} {rounds[name][-1].tokens_per_second:8.0f} tokens/s", flush=True
                    )
        with local_ray(folder, runtime_env={"worker_process_setup_hook": time_phases}):
            phases = phases_of(material)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report(material, rounds, phases, options.quick)
    return 0


def prepared(folder: Path, data: Path, rows: int) -> Material:
    """Writes model/, packed/ and pairs.json into `folder`, of the first `rows` pairs that fit a sequence."""
    source = [json.loads(line) for line in data.read_text().splitlines()]
    prompts = ["\n\n".join(filter(None, (row["instruction"], row["input"]))) for row in source]
    student = Student(model=str(folder / "model"))
    texts = [text for prompt, row in zip(prompts, source, strict=True) for text in (prompt, row["output"])]
    create_student(MODEL, texts, str(folder / "model"), None, seed=0)
    tokenizer = load_tokenizer(str(folder / "model"), student)
    pairs, training = [], []
    for prompt, row in zip(prompts, source, strict=True):
        messages = [{"role": "user", "content": prompt}]
        prompt_ids, response_ids = encode_pair(tokenizer, messages, row["output"], {})
        if len(prompt_ids) + len(response_ids) > TRAIN.sequence_length or len(pairs) == rows:
            continue
        pairs.append({"input_ids": prompt_ids + response_ids, "labels": [IGNORED] * len(prompt_ids) + response_ids})
        identity = instruction_id(messages)
        training.append({"pair_id": pair_id(identity, len(pairs)), "instruction_id": identity, "copy": 0,
                         "messages": messages, "response": row["output"], "task": "none", "pool": "easy",
                         "status": OK})  # fmt: skip
    (folder / "pairs.json").write_text(json.dumps(pairs))
    pq.write_table(conform(training, TRAINING), folder / "training.parquet")
    stats = pack([[str(folder / "training.parquet")]], str(folder / "packed"), FS, str(folder / "model"), student,
                 TRAIN, 0, epochs=1)  # fmt: skip
    from safetensors import safe_open

    with safe_open(folder / "model" / "model.safetensors", framework="np") as weights:
        parameters = sum(weights.get_tensor(name).size for name in weights.keys())  # noqa: SIM118
    filled = stats.tokens / (stats.sequences * TRAIN.sequence_length)
    return Material(folder, parameters, stats.pairs, stats.sequences, filled)


def by_us(material: Material, workers: int, number: int) -> Measured:
    messages, result = ours(material, workers, f"ours-{workers}-{number}")
    at = [(m["tokens"] / m["tokens_per_second"], m["tokens"]) for m in messages if "tokens" in m]
    return Measured(rate(at), result.startup_seconds)


def ours(material: Material, workers: int, name: str) -> tuple[list[dict[str, Any]], Any]:
    """Returns (messages of the first worker, result) of a training by `train_student`."""
    messages: list[dict[str, Any]] = []
    result = train_student(
        material.packed, FS, material.model, str(material.folder / name), str(material.folder / "ray_train"), name,
        Student(model=material.model), TRAIN, Resources(train=Replicas(replicas=workers)), 1, RATE, 0,
        on_progress=messages.append,
    )  # fmt: skip
    return messages, result


def by_trl(material: Material, contender: str, number: int) -> Measured:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "benchmarks.train_peers"]
    return by_peer(material, [*command, contender], processes=2)


def by_bare_loop(material: Material, number: int) -> Measured:
    return by_peer(material, ["-m", "benchmarks.train_peers", "bare"], processes=1)


def by_peer(material: Material, command: list[str], processes: int) -> Measured:
    """Measures a contender in separate processes, which write [time, tokens so far] of each step."""
    out = material.folder / "steps.json"
    called = time.time()
    # By default torchrun gives each process one thread; our workers get their share of the cores.
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": threads}
    subprocess.run([sys.executable, *command, str(material.folder), str(out)], check=True, stdout=sys.stderr,
                   env=environment)  # fmt: skip
    steps = json.loads(out.read_text())
    return Measured(rate(steps["ends"]), steps["began"] - called)


def rate(ends: list[tuple[float, float]]) -> float:
    """Returns tokens per second from the end of the first step to the end of the last, of (seconds, tokens so far)."""
    (began, before), (ended, tokens) = ends[0], ends[-1]
    return (tokens - before) / (ended - began)


def time_phases() -> None:
    """Makes a training in this Ray worker report its time by phase, in a message at its end."""
    inner = loop._train

    def timed(engine: Any, device: Any, work: Any, done: Any) -> dict[str, Any]:
        from benchmarks.phases import Phases

        phases, began = Phases(engine), time.time()
        result = inner(engine, device, work, done)
        work.progress.put.remote({"phases": phases.shares(time.time() - began)})
        return result

    loop._train = timed


def phases_of(material: Material) -> dict[str, float]:
    """Returns the shares of time by phase, of the first of 2 workers."""
    messages, _ = ours(material, 2, "phases")
    return next(message["phases"] for message in messages if "phases" in message)


def report(material: Material, rounds: dict[str, list[Measured]], phases: dict[str, float], quick: bool) -> None:
    rates = {name: [m.tokens_per_second for m in all_] for name, all_ in rounds.items()}
    by_round = {
        name: [ours / theirs for ours, theirs in zip(rates[us], rates[them], strict=True)]
        for name, (us, them) in COMPARED.items()
    }
    median = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: median[us] / median[them] for name, (us, them) in COMPARED.items()}
    figures = {
        "quick": quick,
        "parameters": material.parameters,
        "pairs": material.pairs,
        "sequences": material.sequences,
        "share_of_the_packed_sequences_filled": round(material.filled, 3),
        "tokens_per_second": {name: round(value, 1) for name, value in median.items()},
        "rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "ratios_by_round": {name: [round(value, 3) for value in values] for name, values in by_round.items()},
        "startup_s": {name: round(statistics.median(m.startup_s for m in all_), 1) for name, all_ in rounds.items()},
        "our_time_by_phase": {name: round(share, 3) for name, share in phases.items()},
    }
    show(ratios, figures)
    write("train", ratios, figures, ("torch", "transformers", "deepspeed", "ray", "trl", "accelerate"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pairs, one round; writes results/quick/train.json")
    parser.add_argument("--data", type=Path, help="Alpaca JSONL (instruction, input, output)")
    parser.add_argument("--rows", type=int, default=0, help="pairs trained on")
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    options.rows = options.rows or (120 if options.quick else 400)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.data = options.data or data_folder() / "seeds" / "alpaca_9k.jsonl"
    if not options.data.is_file():
        parser.error(f"{options.data} is not there: name an Alpaca JSONL file with --data")
    return options


if __name__ == "__main__":
    sys.exit(main())
