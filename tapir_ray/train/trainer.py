"""Ray's TorchTrainer for a program that can be stopped and has its own signal handlers.

    trainer = trainer_class()(train_worker, train_loop_config=…, scaling_config=…, run_config=…)
    trainer.meanwhile = …                                    # called about twice a second until it is done
    result = trainer.fit()

An unlimited wait for Ray blocks signals in the main thread. In another thread it crashes the process if Ray is shut
down meanwhile. So `fit` waits in short intervals.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray

from tapir_ray.cluster.interrupt import leave_if_asked
from tapir_ray.cluster.placement import with_driver
from tapir_ray.errors import StageError, last_line, own_error

POLL_S = 0.5
PEER_LOST = re.compile(
    r"DistBackendError|NCCL error|gloo/|connection (closed|reset|refused)|broken pipe|(by|from) peer", re.I
)
"""Matches the error of a worker that failed because it lost another one."""
START_TRIES = 20
"""Number of times to wait again for workers that found no resources in a minute: new nodes may be starting."""


def cause_of(error: Exception) -> str:
    """The cause of a failed training, in one line.

    Among the failures of several workers, one raised on purpose comes first, then one that is not the loss of another
    worker.
    """
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    # Ray wraps the error of a worker's function.
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    own = [cause for cause in causes if isinstance(cause, StageError)]
    first = [cause for cause in causes if not PEER_LOST.search(str(cause))]
    return last_line((own or first or causes)[0])


def trainer_class() -> type[Any]:
    """Ray's TorchTrainer with a `fit` that waits in short intervals, and without two of its callbacks.

    - PlacementGroupCleanerCallback starts an actor that removes the placement group of a dead controller. The end of
      the driver does that too, and without a dashboard the actor logs a warning every second.
    - WorkingDirectorySetupCallback changes the workers' directory, which breaks relative paths in the config.

    An exception raised during the wait ends the training. Ray's handler for Ctrl-C is not installed: it would end the
    process with status 0, even after the training.
    """
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.callbacks.working_dir_setup import WorkingDirectorySetupCallback
    from ray.train.v2._internal.constants import get_env_vars_to_propagate
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    class Trainer(TorchTrainer):
        meanwhile: Callable[[], None] = staticmethod(lambda: None)

        def _create_default_callbacks(self) -> list[Any]:
            unwanted = (PlacementGroupCleanerCallback, WorkingDirectorySetupCallback)
            return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]

        def _initialize_and_run_controller(self, **parts: Any) -> Any:
            # The controller waits for its workers inside an event loop, about which Ray would warn.
            environment = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0"} | get_env_vars_to_propagate()
            actor: Any = ray.remote(num_cpus=0, runtime_env={"env_vars": environment})(TrainController)
            controller = actor.options(**with_driver()).remote(**parts)
            try:
                run = controller.run.remote()
                while not ray.wait([run], timeout=POLL_S)[0]:
                    self.meanwhile()
                    leave_if_asked()
                ray.get(run)
                return ray.get(controller.get_result.remote())
            except BaseException as error:
                with suppress(Exception):
                    ray.kill(controller)
                # An exception from a signal handler inside Ray's C code arrives as the cause of a SystemError.
                stop = own_error(error) if isinstance(error, SystemError) else None
                if stop is None:
                    raise
                raise stop from None

    return Trainer
