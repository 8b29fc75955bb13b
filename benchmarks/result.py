"""Shared code of benchmarks: a local Ray, the data, and results as a table and in benchmarks/results/NAME.json.

start_ray(folder)
write("classify", {"rows_per_second_14M": 2.1}, figures, ("torch", "ray"))
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tapir_ray.cluster.session import IDLE_WORKER_MS, LOG_LEVELS, set_environment

FOLDER = Path(__file__).parent / "results"


def start_ray(folder: Path, **options: Any) -> None:
    """Starts a Ray of four logical CPUs with its files in `folder`, as quiet as that of a run. Like a run's, it keeps
    idle workers for reuse. `options` are Ray's."""
    set_environment()
    import ray
    import ray.data

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=512 * 1024**2,
        log_to_driver=False,
        _temp_dir=str(folder / "ray"),
        _system_config={"idle_worker_killing_time_threshold_ms": IDLE_WORKER_MS},
        **options,
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.use_datasource_v2 = False
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)


@contextmanager
def local_ray(folder: Path, **options: Any) -> Iterator[None]:
    """Context manager of `start_ray` that shuts Ray down on exit."""
    import ray

    start_ray(folder, **options)
    try:
        yield
    finally:
        ray.shutdown()


def show(ratios: Mapping[str, float], figures: Mapping[str, Any]) -> None:
    """Prints the ratios as a table and the figures as a line of JSON."""
    for name, value in ratios.items():
        print(f"{name:56} {value:8.4f}")
    print(json.dumps(figures))


def write(name: str, ratios: Mapping[str, float], figures: Mapping[str, Any], packages: Sequence[str]) -> None:
    """Writes NAME.json with the machine, the versions of `packages` and the date; into quick/ for quick figures."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {gpu}"
    found = {package: version(package) for package in packages}
    folder = FOLDER / "quick" if figures.get("quick") else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / f"{name}.json", ratios, figures, machine, found, today())


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def written(name: str, quick: bool) -> dict[str, Any]:
    """Returns the content of NAME.json, for a benchmark that measures one of its parts again."""
    file = (FOLDER / "quick" if quick else FOLDER) / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"ratios": {}, "figures": {}}
    return found


def save(
    file: Path,
    ratios: Mapping[str, float],
    figures: Mapping[str, Any],
    machine: str,
    versions: Mapping[str, str],
    date: str,
) -> None:
    """Writes the result of the benchmark that `file` is named after."""
    result = {
        "benchmark": file.stem,
        "ratios": {key: round(value, 4) for key, value in ratios.items()},
        "figures": figures,
        "machine": machine,
        "versions": versions,
        "date": date,
    }
    file.write_text(json.dumps(result, indent=2) + "\n")


def data_folder() -> Path:
    """Returns the folder of real data: `TAPIR_DATA`, else `shared/data` next to the checkout. Exits without one."""
    folder = Path(os.environ.get("TAPIR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        raise SystemExit(f"real data is not there: {folder} (set TAPIR_DATA)")
    return folder
