"""The cause of a failed training whose workers failed for different reasons."""

from __future__ import annotations

from ray.train import WorkerGroupError

from tapir_ray.errors import StageError
from tapir_ray.train.trainer import cause_of

LOST = RuntimeError("Traceback …\n[gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1234")


def test_the_worker_that_failed_first_is_named_and_not_those_that_lost_it() -> None:
    memory = RuntimeError("Traceback …\ntorch.OutOfMemoryError: CUDA out of memory")
    assert cause_of(WorkerGroupError("…", {0: LOST, 1: memory})) == "torch.OutOfMemoryError: CUDA out of memory"
    assert cause_of(WorkerGroupError("…", {0: memory, 1: LOST, 2: StageError("the table has a hole")})) == (
        "the table has a hole"
    )
    assert "Connection closed by peer" in cause_of(WorkerGroupError("…", {0: LOST, 1: LOST}))
    assert cause_of(ValueError("no place\nfor a worker")) == "for a worker"
    nccl = RuntimeError("torch.distributed.DistBackendError: NCCL error\nCall to recv failed : Connection timed out")
    assert cause_of(WorkerGroupError("…", {0: nccl, 1: memory})).endswith("out of memory")
