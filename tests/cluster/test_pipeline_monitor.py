"""The operator that a pipeline waits for: the last one with work, wherever blocks and workers are held up."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.cluster import pipeline_monitor
from tapir_ray.cluster.pipeline_monitor import Operator, in_words, waiting

READ, ASK, WRITE = "ReadParquet", "MapBatches(Asker)", "MapBatches(write_block)"


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        # Unanswered requests; the answered rows wait for a full batch.
        ([Operator(ASK, 64, inside=2), Operator(WRITE, 0, inside=1)], f"{ASK} waits: 64 tasks run, 2 blocks wait"),
        # An engine without a place; the read before it is held by backpressure.
        (
            [Operator(READ, 1), Operator(ASK, 0, inside=3, absent=1), Operator(WRITE, 0)],
            f"{ASK} waits: 0 tasks run, 3 blocks wait, 1 of its workers are not there yet",
        ),
        # No CPU for a task.
        (
            [Operator(READ, 1), Operator(WRITE, 0, before=4)],
            f"{WRITE} waits: 0 tasks run, 4 blocks wait, no place for a task on the cluster",
        ),
        # An actor pool that is to grow and has no work yet.
        ([Operator(READ, 2), Operator(ASK, 0, absent=1)], f"{READ} waits: 2 tasks run, 0 blocks wait"),
        ([Operator(ASK, 0), Operator(WRITE, 0, inside=1)], "no operator has work: the pipeline is starting or ending"),
    ],
)
def test_the_last_operator_with_work_is_named(operators: list[Operator], expected: str) -> None:
    assert in_words(operators) == expected


def test_an_unreferenced_pipeline_is_not_kept_alive() -> None:
    class Executor:
        _topology: dict[Any, Any] = {}  # noqa: RUF012

    executor = Executor()
    watched = pipeline_monitor.Watched()
    watched.before_execution_starts(executor)
    assert waiting() == "no operator has work: the pipeline is starting or ending"
    del executor
    assert waiting() is None
    other = Executor()
    watched.before_execution_starts(other)
    watched.after_execution_fails(other, ValueError())
    assert waiting() is None


class Held:
    """A worker that answers nothing while a file exists."""

    def __init__(self, gate: str) -> None:
        self._gate = Path(gate)

    def __call__(self, batch: Any) -> Any:
        while self._gate.exists():
            time.sleep(0.1)
        return batch


def test_a_pipeline_of_ray_data_is_observed_from_outside(ray_local: None, tmp_path: Path) -> None:
    import ray

    gate = tmp_path / "gate"
    gate.touch()
    context = ray.data.DataContext.get_current()
    before, context.custom_execution_callback_classes = (
        context.custom_execution_callback_classes,
        [pipeline_monitor.Watched],
    )
    try:
        rows = ray.data.range(8, override_num_blocks=4).map_batches(
            Held,
            fn_constructor_args=[str(gate)],
            batch_size=2,
            num_cpus=0.1,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        counted: list[int] = []
        reader = threading.Thread(target=lambda: counted.append(sum(1 for _ in rows.iter_rows())), daemon=True)
        reader.start()
        deadline = time.monotonic() + 60
        while "Held) waits: " not in (state := waiting() or "") or " 0 tasks run" in state:
            assert time.monotonic() < deadline, state
            time.sleep(0.2)
        gate.unlink()
        reader.join(60)
        assert counted == [8] and waiting() is None
    finally:
        gate.unlink(missing_ok=True)
        context.custom_execution_callback_classes = before
