"""Placement of workers: the nodes from which they can ask a served model."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import ray
import ray.data

from tapir_ray.cluster.interrupt import interruptible
from tapir_ray.cluster.pipeline_monitor import Watched, label_selectors
from tapir_ray.errors import StageError
from tapir_ray.llm.serve import proxies
from tests.cluster.test_pipeline_monitor import Held


def test_a_worker_is_placed_on_nodes_with_a_listening_proxy_once_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([[], [], ["aa", "bb"]])
    monkeypatch.setattr(proxies, "listening", lambda: next(answers))
    assert proxies.worker_options(["teacher"]) == {"label_selector": {"ray.io/node-id": "in(aa,bb)"}}
    assert proxies.worker_options([]) == {}


def test_a_run_without_a_listening_proxy_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(proxies, "listening", list)
    with pytest.raises(
        StageError, match=r"no healthy proxy on a node with CPUs for 0\.1 s, so no requests reach the judge and teacher"
    ):
        proxies.worker_options(["teacher", "judge"])


def test_workers_whose_nodes_are_all_lost_end_the_run(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline is running; Ray itself would wait for one of these nodes."""
    (node,) = ray.nodes()
    gate = tmp_path / "gate"
    gate.touch()
    options = {"label_selector": {proxies.NODE_ID: f"in({node['NodeID']},gone)"}}
    context = ray.data.DataContext.get_current()
    before, context.custom_execution_callback_classes = context.custom_execution_callback_classes, [Watched]
    try:
        rows = ray.data.range(4).map_batches(
            Held, fn_constructor_args=[str(gate)], num_cpus=0.1, compute=ray.data.ActorPoolStrategy(size=1), **options
        )
        reader = threading.Thread(target=rows.take_all, daemon=True)
        reader.start()
        while not label_selectors():
            assert reader.is_alive()
            time.sleep(0.1)
        assert proxies._stranded() is None
        with monkeypatch.context() as lost:
            lost.setattr(ray, "nodes", lambda: [{**node, "Alive": False}, {**node, "NodeID": "another"}])
            lost.setattr(proxies, "CHECK_S", 0.05)
            with (
                pytest.raises(StageError, match="every node that could send requests to the local models is lost"),
                interruptible(),
                proxies.stopped_if_stranded(),
            ):
                time.sleep(30)
        gate.unlink()
        reader.join(60)
        assert label_selectors() == [] and proxies._stranded() is None
    finally:
        context.custom_execution_callback_classes = before
