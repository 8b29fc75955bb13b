"""Reports what the running Ray Data pipelines of this process wait for.

context.custom_execution_callback_classes = [Watched]     # of the DataContext, before any pipeline
waiting()                                                  # "MapBatches(Asker) waits: 4 tasks run, 2 blocks wait"
label_selectors()                                          # labels that nodes for their workers must have
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

from tapir_ray.cluster.interrupt import raise_interrupt

_running: dict[int, weakref.ref[Any]] = {}
"""Executors by id. Weak references, because Ray stops an executor without readers when it is garbage-collected."""


class Watched(ExecutionCallback):
    """Registers every pipeline for `waiting`, and ends it with the error of `interrupt`.

    Ray creates one per pipeline and imports the class in workers by name.
    """

    def before_execution_starts(self, executor: Any) -> None:
        _running[id(executor)] = weakref.ref(executor)

    def on_execution_step(self, executor: Any) -> None:
        raise_interrupt()

    def after_execution_succeeds(self, executor: Any) -> None:
        _running.pop(id(executor), None)

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        _running.pop(id(executor), None)


@dataclass(frozen=True)
class Operator:
    """An unfinished operator: numbers of running tasks, blocks before it, blocks inside it, workers not yet placed."""

    name: str
    tasks: int
    before: int = 0
    inside: int = 0
    absent: int = 0

    @property
    def busy(self) -> bool:
        """True if it has work. Rows inside that only wait for a full batch do not count."""
        return bool(self.tasks or self.before or (self.absent and self.inside))


def waiting() -> str | None:
    """A sentence on the operator that each running pipeline waits for; None if no pipeline runs."""
    return "; ".join(in_words(operators_of(executor)) for executor in _executors()) or None


def label_selectors() -> list[dict[str, str]]:
    """The label selectors of all unfinished operators of all running pipelines."""
    operators = (operator for executor in _executors() for operator in executor._topology)
    remote = (getattr(operator, "_ray_remote_args", {}) for operator in operators if not operator.has_completed())
    return [dict(arguments["label_selector"]) for arguments in remote if arguments.get("label_selector")]


def _executors() -> list[Any]:
    found = [reference() for reference in list(_running.values())]
    return [executor for executor in found if executor is not None]


def operators_of(executor: Any) -> list[Operator]:
    """The unfinished operators of a pipeline, from its source to its end."""
    found = []
    # Private, because Ray Data has no public view of the operators of a running pipeline.
    for operator, state in executor._topology.items():
        if operator.has_completed():
            continue
        before = sum(queue.num_blocks for queue in state.input_queues)
        workers = operator.get_actor_info()
        found.append(
            Operator(
                operator.name,
                operator.num_active_tasks(),
                before,
                state.total_enqueued_input_blocks() - before,
                workers.pending + workers.restarting,
            )
        )
    return found


def in_words(operators: Iterable[Operator]) -> str:
    """A sentence on the last operator with work, because the operators before it wait for it."""
    busy = [operator for operator in operators if operator.busy]
    if not busy:
        return "no operator has work: the pipeline is starting or ending"
    last = busy[-1]
    counts = [f"{last.tasks} tasks run", f"{last.before + last.inside} blocks wait"]
    if last.absent:
        counts.append(f"{last.absent} of its workers are not there yet")
    elif not last.tasks:
        counts.append("no place for a task on the cluster")
    return f"{last.name} waits: {', '.join(counts)}"
