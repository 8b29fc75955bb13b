"""Measures requests under errors and a limit, and the speed of our path against a bare client.

    python benchmarks/requests.py [--quick] [--only errors|speed]

errors: requests to the simulator at 30 % errors and a limit of 3,000 per minute. Reports lost and doubled requests, the
share of the limit that was used (attempts count), the share above it, and the memory of the worker.

speed: 2,000 requests without errors, 100 ms latency, 256 in flight, through `Roles.ask` (usage actor with leases, reply
cache, rows in and out) with one worker and with two, through a bare `AsyncOpenAI` on aiohttp, and through a thread pool
of the plain client. All take turns in one run; rates are medians of the rounds.

A rate is timed from the first request to the last row out, without the start of workers. The simulator shares this
machine. Writes benchmarks/results/requests.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder, whose name would hide the package `requests`

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import psutil
import pyarrow as pa
import ray
import ray.data

from benchmarks.result import show, start_ray, write
from tapir_ray.config import parse
from tapir_ray.llm.asker import Row
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.roles import Roles
from tapir_ray.simulator import Options, running

LIMIT, ERROR_RATE, IN_FLIGHT, LATENCY_S = 3000, 0.3, 256, 0.1
ANSWERED = {None, "empty", "refusal", "unparseable_scores"}
"""Faults (or none) that end a request: each row must get exactly one."""
OUT = pa.schema([("id", pa.int64()), ("text", pa.string()), ("status", pa.string()), ("reason", pa.string()),
                 ("began", pa.float64()), ("rss", pa.int64())])  # fmt: skip


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="requests-", dir="/tmp"))
    start_ray(folder)
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"quick": options.quick}
    try:
        if options.only != "errors":
            measured, figures["speed"] = speed(folder, options.requests, options.rounds)
            ratios |= measured
        if options.only != "speed":
            measured, figures["errors"] = errors(folder, options.rows)
            ratios |= measured
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    show(ratios, figures)
    if not options.only:
        write("requests", ratios, figures, ("openai", "aiohttp", "ray", "pyarrow"))
    return 0


def prompt(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"tom has {number} pens , finds 3 , loses 2 . how many pens now ?"}]


async def ask_one(clients: Mapping[str, Client], row: Row) -> Row:
    """Answers a row of a stage by one request to the teacher."""
    began = time.time()
    reply = await clients["teacher"].chat(prompt(row["id"]), seed=row["id"], kind="respond")
    rss = psutil.Process().memory_info().rss if row["id"] % 50 == 0 else None
    return {**row, "text": reply.text, "status": reply.status, "reason": reply.reason, "began": began, "rss": rss}


def ours(
    url: str, rows: int, cache: Path, workers: int = 1, **teacher: Any
) -> tuple[list[Row], float, dict[str, float]]:
    """Returns (rows out, seconds from the first request to the last row, usage) of `Roles.ask`."""
    config = parse(
        {
            "name": "requests",
            "seed_data": {"path": "none"},
            "student": {"model": "none"},
            "teacher": {"model": "m", "base_url": url, "api_key_env": None, **teacher},
            "resources": {"request_workers": workers},
        }
    )
    out: list[Row] = []
    with Roles(config, f"requests-{time.time_ns()}", None, str(cache)) as roles:
        asked = roles.ask(ray.data.from_arrow(pa.table({"id": range(rows)})), ask_one, OUT)
        for batch in asked.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            out += batch.to_pylist()
            ended = time.time()
        usage = roles.usage()["teacher"]
    return out, ended - min(row["began"] for row in out), usage


def bare(url: str, requests: int) -> float:
    """Returns the seconds of the same requests by AsyncOpenAI on aiohttp with a semaphore alone."""

    async def run() -> float:
        client = openai.AsyncOpenAI(
            base_url=url, api_key="-", max_retries=0, http_client=openai.DefaultAioHttpClient(trust_env=False)
        )
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def one(number: int) -> None:
            async with slots:
                await client.chat.completions.create(
                    model="m", messages=prompt(number), seed=number, temperature=0.0, max_tokens=1024
                )  # type: ignore[call-overload]

        began = time.time()
        await asyncio.gather(*(one(number) for number in range(requests)))
        seconds = time.time() - began
        await client.close()
        return seconds

    return asyncio.run(run())


def pool(url: str, requests: int) -> float:
    """Returns the seconds of the same requests by the plain client in as many threads."""
    client = openai.OpenAI(base_url=url, api_key="-", max_retries=0)

    def one(number: int) -> None:
        client.chat.completions.create(
            model="m", messages=prompt(number), seed=number, temperature=0.0, max_tokens=1024
        )  # type: ignore[call-overload]

    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        began = time.time()
        list(threads.map(one, range(requests)))
        return time.time() - began


def speed(folder: Path, requests: int, rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns the ratios of rates, and requests per second of each contender by round."""
    rates: dict[str, list[float]] = {
        name: [] for name in ("ours", "ours_two_workers", "ours_cached", "bare", "thread_pool")
    }
    limits = {"in_flight": IN_FLIGHT, "requests_per_minute": 10**7}
    for number in range(rounds):
        cache = folder / f"cache-{number}"
        with running(Options(latency_s=LATENCY_S)) as url:
            rates["bare"].append(requests / bare(url, requests))
            out, seconds, usage = ours(url, requests, cache, limits=limits)
            assert len(out) == usage["requests"] == requests, usage
            rates["ours"].append(requests / seconds)
            rates["thread_pool"].append(requests / pool(url, requests))
            rates["bare"].append(requests / bare(url, requests))
            out, seconds, usage = ours(url, requests, cache, limits=limits)
            # The usage of the folder is that of both calls: the second one sent nothing.
            assert len(out) == usage["cached_requests"] == usage["requests"] == requests, usage
            rates["ours_cached"].append(requests / seconds)
            out, seconds, usage = ours(url, requests, folder / f"cache-{number}-two", workers=2, limits=limits)
            assert len(out) == usage["requests"] == requests, usage
            rates["ours_two_workers"].append(requests / seconds)
        print({name: [round(rate) for rate in values] for name, values in rates.items()}, flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        "whole_path_against_bare_client": median["ours"] / median["bare"],
        "whole_path_against_thread_pool": median["ours"] / median["thread_pool"],
        "two_workers_against_thread_pool": median["ours_two_workers"] / median["thread_pool"],
    }
    return ratios, {
        "requests": requests,
        "in_flight": IN_FLIGHT,
        "latency_s": LATENCY_S,
        "requests_per_second": {name: round(value, 1) for name, value in median.items()},
        "rounds": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
    }


def errors(folder: Path, rows: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns shares of the limit and of the rows, and the counts behind them."""
    log = folder / "log.jsonl"
    options = Options(error_rate=ERROR_RATE, max_requests_per_minute=LIMIT, latency_s=LATENCY_S, log=str(log))
    with running(options) as url:
        limits = {"in_flight": IN_FLIGHT, "requests_per_minute": LIMIT}
        out, seconds, usage = ours(url, rows, folder / "cache", limits=limits, timeout_s=10, max_attempts=12)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    arrived = sorted(line["arrived"] for line in lines)
    firsts: dict[int, float] = {}
    for line in lines:
        firsts[line["seed"]] = min(line["arrived"], firsts.get(line["seed"], line["arrived"]))
    # Until the first request of the last row, requests were always waiting: only this time counts as use of the limit.
    began, busy_until = arrived[0], max(firsts.values())
    busy_s = busy_until - began
    sent = sum(at <= busy_until for at in arrived)
    ended = Counter(line["seed"] for line in lines if line.get("fault") in ANSWERED)
    failed = sum(row["status"] == "failed" for row in out)
    lost = rows - len({row["id"] for row in out})
    rss = [row["rss"] for row in sorted(out, key=lambda row: row["began"]) if row["rss"]]
    quarter = len(rss) // 4
    middle, last = statistics.median(rss[quarter : 2 * quarter]), statistics.median(rss[-quarter:])
    over = sum(line.get("fault") == "over_limit" for line in lines)
    ratios = {
        "limit_used": sent / (LIMIT / 60 * busy_s),
        "over_limit": over / len(lines),
        "rows_lost_or_doubled": (lost + len(out) - len({row["id"] for row in out})) / rows,
        "answers_paid_twice": sum(count > 1 for count in ended.values()) / rows,
        "memory_last_against_second_quarter": last / middle,
    }
    return ratios, {
        "rows": rows,
        "rows_out": len(out),
        "statuses": dict(Counter(row["status"] for row in out)),
        "failed": failed,
        "attempts": len(lines),
        "attempts_counted_by_us": usage["requests"],
        "faults": dict(Counter(line.get("fault") or "none" for line in lines)),
        "most_in_60_s": most_in_a_minute(arrived),
        "limit_per_minute": LIMIT,
        "busy_seconds": round(busy_s, 1),
        "seconds": round(seconds, 1),
        "worker_rss_mb": [round(value / 2**20) for value in (rss[0], middle, last)],
    }


def most_in_a_minute(times: list[float]) -> int:
    most = first = 0
    for last, at in enumerate(times):
        while times[first] <= at - 60:
            first += 1
        most = max(most, last - first + 1)
    return most


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3,000 requests at errors and two rounds of speed")
    parser.add_argument("--only", choices=("errors", "speed"), default="", help="one of both; writes no file")
    options = parser.parse_args()
    options.rows, options.requests, options.rounds = (3_000, 2_000, 2) if options.quick else (10_000, 2_000, 3)
    return options


if __name__ == "__main__":
    sys.exit(main())
