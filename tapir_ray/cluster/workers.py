"""Checks that the workers of a cluster can use the storage and the models of a run.

    check_storage(run, config)             # at the start of every run
    with storage_watched(run, config): ... # checks workers that join later
    problems = model_problems(config)      # by `tapir check --address`

A worker is a process on another node than this one. With a single node there is nothing to check.
"""

from __future__ import annotations

import os
import posixpath
import socket
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tapir_ray.cluster.autoscaler import groups
from tapir_ray.cluster.interrupt import watched
from tapir_ray.config import Config
from tapir_ray.data.storage import Storage, is_remote
from tapir_ray.errors import InputError, StageError, TapirError, last_line

TRY_S = 8.0
"""Seconds between two checks for new workers, and their time to answer. Less than `interrupt.JOIN_S`, the longest wait
for the watching thread at the end of a run."""

Model = tuple[str, str, str | None]
"""(config key, model name, revision)."""


def check_storage(
    run: Storage, config: Config, nodes: Collection[str] | None = None, patience_s: float | None = None
) -> list[str]:
    """Tries to read, write and delete files in the run's folder on each worker (of `nodes`, or all); returns the hosts.

    Raises InputError if a worker cannot, or has another folder of that name. Raises StageError if no worker answers in
    `patience_s` seconds, by default `resources.no_progress_timeout_s`.
    """
    name = f".seen-{uuid.uuid4().hex}"
    run.write_text(name, name)
    try:
        hosts = []
        for host, file, problem in on_workers(try_storage, config, run.uri, name, nodes=nodes, patience_s=patience_s):
            if not problem and not run.exists(file):
                # The worker wrote its file, but not to the folder that the driver sees.
                problem = f"writes to another folder of this name on {host}"
            if problem:
                raise InputError(
                    f"run_dir {run.uri}: a worker {problem}; give storage that all nodes share as --run-dir: s3://…, "
                    "gs://…, or a folder that each of them mounts"
                )
            hosts.append(host)
        return hosts
    finally:
        for left in run.children(""):
            if left.startswith(name):
                run.fs.delete_file(run.path(left))


@contextmanager
def storage_watched(run: Storage, config: Config) -> Iterator[None]:
    """Context manager: raises InputError in the main thread if a worker that joins does not share the run's folder.

    Its paid results would otherwise end up on its own disk.
    """
    tried = set(_able())

    def look() -> InputError | None:
        joined = [node for node in _able() if node not in tried]
        if joined:
            try:
                check_storage(run, config, joined, TRY_S)
            except InputError as error:
                return error
            tried.update(joined)
        return None

    with watched(look, TRY_S, "storage"):
        yield


def _able() -> list[str]:
    """Ids of the living nodes with CPUs."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def refuse_other_machines() -> None:
    """Raises InputError if the cluster has other machines: the simulator listens on the loopback of this one only."""
    mine = ray.get_runtime_context().get_node_id()
    places = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if others := sorted({address for address in places.values() if address != places[mine]}):
        raise InputError(
            f"simulator: its endpoint can be reached on {places[mine]} only, and the cluster has nodes on "
            f"{', '.join(others[:3])}; give teacher.base_url of an endpoint that all nodes reach, or run it on one "
            "machine"
        )


def try_storage(uri: str, name: str) -> tuple[str, str, str]:
    """Tries to use the folder `uri`; returns (this host, a file that it leaves in the folder, the problem or "").

    The folder must have a file `name` whose content is that name.
    """
    host = socket.gethostname()
    file = f"{name}-{host}-{os.getpid()}"
    try:
        storage = Storage.at(uri)
        if not storage.exists(name) or storage.read_text(name) != name:
            return host, file, f"on {host} does not see what the driver writes there"
        for mine in (file, f"{file}-deleted"):
            storage.write_text(mine, name)
        storage.fs.delete_file(storage.path(f"{file}-deleted"))
    except (OSError, TapirError) as error:
        return host, file, f"on {host} cannot read, write and delete there ({last_line(error)})"
    return host, file, ""


def models(config: Config) -> list[Model]:
    """The models that workers load by name."""
    found: list[tuple[str, str | None, str | None]] = []
    if config.regenerate is None:
        found.append(("student.model", config.student.model, config.student.revision))
    if config.classify.by == "deberta":
        found.append(("classify.model", config.classify.model, None))
    found += [(f"{key}.model", one.model, None) for key, one in config.endpoints.items() if one.spec.local]
    return [(key, model, revision) for key, model, revision in found if model is not None]


def model_problems(config: Config) -> list[str]:
    """A sentence for each model that a worker cannot load, with advice. Raises StageError if no worker answers."""
    looks = on_workers(try_models, config, models(config), most=1)
    return [problem for problems in looks for problem in problems] if looks else try_models(models(config))


def try_models(wanted: list[Model]) -> list[str]:
    """A sentence for each model that this machine neither has nor can download."""
    return [problem for model in wanted if (problem := _try_model(*model))]


def _try_model(key: str, model: str, revision: str | None) -> str | None:
    from huggingface_hub import errors, hf_hub_download

    host = socket.gethostname()
    try:
        if is_remote(model):
            there = Storage.at(model).exists("config.json")
        elif Path(model).is_dir():
            there = (Path(model) / "config.json").is_file()
        elif posixpath.isabs(model) or model.startswith("."):
            return f"{key} {model} is not a folder on {host}: put it on storage that all nodes share"
        else:
            # The smallest file with the same access rights as the weights.
            hf_hub_download(model, "config.json", revision=revision)
            there = True
    except errors.GatedRepoError:
        return (
            f"{key} {model} is gated, and {host} may not load it: accept its terms at https://huggingface.co/{model}, "
            "and give the workers HF_TOKEN of that account (a Secret, or --env HF_TOKEN)"
        )
    except errors.RevisionNotFoundError:
        return f"{key} {model} has no revision {revision}: name a branch, tag or commit that it has"
    except errors.RepositoryNotFoundError:
        return (
            f"{key} {model} is neither a folder on {host} nor a model that its account sees on the hub: correct the "
            "name, or give the workers HF_TOKEN if it is private"
        )
    except errors.LocalEntryNotFoundError as error:
        return f"{key} {model} cannot be loaded on {host}, which has no copy: {last_line(error)}"
    except errors.EntryNotFoundError:
        there = False
    except (OSError, ValueError, TapirError) as error:
        return f"{key} {model} cannot be loaded on {host}: {last_line(error)}"
    return None if there else f"{key} {model} has no config.json: name a folder that save_pretrained wrote"


@contextmanager
def second_worker(config: Config) -> Iterator[None]:
    """Context manager that keeps another node with CPUs in the cluster, if its autoscaler can add one.

    Raises StageError if no node comes within `resources.no_progress_timeout_s`.
    """
    cpus, patience_s = config.resources.transform_cpus, config.resources.no_progress_timeout_s
    if _able() != [ray.get_runtime_context().get_node_id()] or not any(group.most for group in groups()):
        yield
        return
    # Two bundles on two nodes: the second makes the autoscaler add one.
    both = placement_group([{"CPU": cpus}] * 2, strategy="STRICT_SPREAD")
    try:
        if not both.wait(patience_s):
            raise _none_came(patience_s)
        yield
    finally:
        remove_placement_group(both)


def on_workers(
    function: Callable[..., Any],
    config: Config,
    *arguments: Any,
    most: int | None = None,
    nodes: Collection[str] | None = None,
    patience_s: float | None = None,
) -> list[Any]:
    """Runs `function` on each other node with CPUs and returns the results; [] if this is the only node with CPUs.

    `nodes` restricts the nodes, `most` their number. If no node has CPUs yet, waits for one that the autoscaler adds.
    Raises StageError if no worker answers in `patience_s` seconds, by default `resources.no_progress_timeout_s`.
    """
    me, able = ray.get_runtime_context().get_node_id(), _able()
    others = [node for node in able if node != me and (nodes is None or node in nodes)][:most]
    task: Any = ray.remote(max_retries=0)(function)
    if able:
        places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in others]
        # A claim of 0 runs on busy nodes too.
        tasks = [task.options(num_cpus=0, scheduling_strategy=place) for place in places]
    else:
        tasks = [task.options(num_cpus=config.resources.transform_cpus)]
    references = [one.remote(*arguments) for one in tasks]
    patience_s = config.resources.no_progress_timeout_s if patience_s is None else patience_s
    if references and ray.wait(references, num_returns=len(references), timeout=patience_s)[1]:
        raise _none_came(patience_s)
    found = []
    for reference in references:
        # A node may have been lost in the meantime. `function` returns its own problems instead of raising them.
        with suppress(ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            found.append(ray.get(reference))
    return found


def _none_came(patience_s: float) -> StageError:
    return StageError(
        f"no worker answered in {patience_s:.0f} s (resources.no_progress_timeout_s): see `ray status` on the head"
    )
