"""Fixtures shared by the tests: one local Ray for the whole session, and the folder of real data if there is one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_DATA_USE_DATASOURCE_V2", "0")  # As tapir_ray.cluster.session sets it.
if "PYTEST_XDIST_WORKER" in os.environ:
    # With a thread on every core, torch slows down many times as soon as another process takes one of them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


RAYS = ("ray 1", "ray 2")
"""Groups of the tests that use the tests' Ray, each on a process and a Ray of its own. They mostly wait."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups the tests for `--dist loadgroup`: files of tests that use Ray in turn in RAYS, the rest file by file.

    Those with Ray come first, so that no worker is left alone with them at the end.
    """
    on_ray = sorted({file_of(item) for item in items if "ray_local" in getattr(item, "fixturenames", ())})
    groups = {file: RAYS[number % len(RAYS)] for number, file in enumerate(on_ray)}

    def group(item: pytest.Item) -> str:
        on_ray = "ray_local" in getattr(item, "fixturenames", ())
        return groups[file_of(item)] if on_ray else file_of(item)

    items.sort(key=lambda item: group(item) not in RAYS)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


def file_of(item: pytest.Item) -> str:
    return item.nodeid.split("::")[0]


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray for the tests alone, in a short temporary folder that is removed at the end."""
    import ray

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=512 * 1024**2,
        _temp_dir=folder,
        log_to_driver=False,
        # The next pipeline reuses idle worker processes: starting one costs seconds of imports.
        _system_config={"idle_worker_killing_time_threshold_ms": 300_000},
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real instruction data (`TAPIR_DATA`, else `shared/data` next to the checkout)."""
    folder = Path(os.environ.get("TAPIR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not there: {folder} (set TAPIR_DATA)")
    return folder
