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


LONGEST = "ray"
"""The longest group of tests: it comes first, so that no worker is left alone with it at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups the tests for `--dist loadgroup`: tests that need the shared Ray in one process, the rest file by file."""

    def group(item: pytest.Item) -> str:
        return "ray" if "ray_local" in getattr(item, "fixturenames", ()) else item.nodeid.split("::")[0]

    items.sort(key=lambda item: group(item) != LONGEST)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


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
