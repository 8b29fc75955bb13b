"""Ray's TorchTrainer as a part of a program that may be stopped, and has signal handlers of its own.

    trainer = trainer_class()(train_worker, train_loop_config=…, scaling_config=…, run_config=…)
    result = trainer.fit()                                   # in the main thread where it can be

What waits for Ray in another thread crashes the process if Ray is shut down meanwhile, so a training that is stopped
must not have one.
"""

from __future__ import annotations

from typing import Any

START_TRIES = 20
"""How often workers that find no place in a minute are waited for again: nodes may be on their way."""


def trainer_class() -> type[Any]:
    """Ray's TorchTrainer without two of its callbacks, and without its handler of Ctrl-C.

    One callback starts an actor that removes a dead controller's placement group: the end of the driver does that, and
    without a dashboard the actor can only write a warning every second. The other changes the workers' directory, after
    which relative paths of the configuration name nothing. The handler would stay when the training is over, and end
    the process with status 0.
    """
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.callbacks.working_dir_setup import WorkingDirectorySetupCallback
    from ray.train.v2.torch.torch_trainer import TorchTrainer

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            unwanted = (PlacementGroupCleanerCallback, WorkingDirectorySetupCallback)
            return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]

        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    return Trainer
