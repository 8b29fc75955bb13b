"""Ray's TorchTrainer as a part of a program that may be stopped, and has signal handlers of its own.

    trainer = trainer_class()(train_worker, train_loop_config=…, scaling_config=…, run_config=…)
    trainer.meanwhile = …                                    # called again and again until it is done
    result = trainer.fit()

What waits for Ray without an end lets no signal through in the main thread, and in another one it crashes the process
where Ray is shut down meanwhile.
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
"""In what a worker says that failed because another one did."""
START_TRIES = 20
"""How often workers that find no place in a minute are waited for again: nodes may be on their way."""


def cause_of(error: Exception) -> str:
    """What a training failed of, in a line: of the failures of its workers the one that was raised on purpose, else one
    that is not the loss of another worker."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    own = [cause for cause in causes if isinstance(cause, StageError)]
    first = [cause for cause in causes if not PEER_LOST.search(str(cause))]
    return last_line((own or first or causes)[0])


def trainer_class() -> type[Any]:
    """Ray's TorchTrainer, whose `fit` waits a little at a time, without two of its callbacks.

    One callback starts an actor that removes a dead controller's placement group: the end of the driver does that, and
    without a dashboard the actor can only write a warning every second. The other changes the workers' directory, after
    which relative paths of the configuration name nothing.

    What is raised while `fit` waits ends the training. Ctrl-C stays as it is: Ray's own handler would end the process
    with status 0, also later.
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
            # It waits for its workers inside an event loop, of which Ray would warn.
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
                # What a signal's handler raises in the midst of Ray's own code is the cause of a SystemError.
                stop = own_error(error) if isinstance(error, SystemError) else None
                if stop is None:
                    raise
                raise stop from None

    return Trainer
