"""The curriculum actor: the single owner of a run's state across rounds, in the run's storage.

    curriculum = start("s3://bucket/runs/a", "a", config.model_dump_json(), attempt=1)
    curriculum.observe(1, stats)
    plan = curriculum.plan(1)
    mix = curriculum.plan_mix(1, capacities)
    remove(curriculum)

The files are the truth and the actor is a cache of them. Every change is a new object RUN/state/ATTEMPT-VERSION.json,
which is never renamed or overwritten; the last readable object is the state. So the actor may die at any moment: an
object that was cut short is skipped. Every driver has an attempt number. Once a later attempt has started, on this
cluster or another, calls of an earlier one are refused. Every operation is idempotent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from tapir_ray.cluster.placement import NAMESPACE, with_driver
from tapir_ray.config import Config
from tapir_ray.curriculum import tasks
from tapir_ray.curriculum.mix import Mix, make_mix
from tapir_ray.curriculum.plan import Plan, make_plan
from tapir_ray.curriculum.quotas import Cell
from tapir_ray.curriculum.reweigh import with_weights
from tapir_ray.curriculum.stats import ScoreStats
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError, StageError
from tapir_ray.run.layout import STATE


class StateFiles:
    """Versions of a run's state, as immutable objects in one folder (a path or a URI)."""

    def __init__(self, run_uri: str) -> None:
        self._storage = Storage.at(run_uri)

    def versions(self) -> list[tuple[int, int]]:
        """Returns (attempt, version) of every object, in rising order."""
        found = (_OBJECT.fullmatch(name) for name in self._storage.children(STATE))
        return sorted((int(match[1]), int(match[2])) for match in found if match)

    def latest(self) -> dict[str, Any] | None:
        """Returns the content of the last complete object; None for a run without any.

        Raises StageError if objects exist but none can be read: every round would silently be planned again.
        """
        versions = self.versions()
        for attempt, version in reversed(versions):
            # The writer of a cut-short object died before it returned, so no caller has acted on that version.
            found = self._storage.find_json(_name(attempt, version), "is skipped: the version before it is used")
            if found is not None:
                return found
        if versions:
            raise StageError(
                f"{self._storage.uri_of(STATE)}: none of its {len(versions)} objects can be read; restore them from "
                "a backup, or remove the folder to plan every round again from its stored scores"
            )
        return None

    def write(self, attempt: int, content: Mapping[str, Any]) -> None:
        """Writes a new version.

        Raises StageError if a later attempt, or another process of the same attempt, has written one.
        """
        versions = self.versions()
        if versions and versions[-1][0] > attempt:
            raise StageError(_refusal(attempt, versions[-1][0]))
        version = versions[-1][1] + 1 if versions and versions[-1][0] == attempt else 0
        name = _name(attempt, version)
        made = self._storage.create_json(name, content)
        if made is None:
            # The storage has no conditional writes. Reading first finds an earlier writer, but not a simultaneous one.
            if self._storage.find_json(name) not in (None, content):
                made = False
            else:
                self._storage.write_json(name, content)
        if made is False:
            raise StageError(
                f"{self._storage.uri_of(name)} was written by another process of attempt {attempt} at the same moment; "
                "this process must stop"
            )


_OBJECT = re.compile(r"(\d+)-(\d+)\.json")


def _name(attempt: int, version: int) -> str:
    return f"{STATE}/{attempt:05d}-{version:06d}.json"


# No CPU: it must never wait for one behind engines. Restarts and retries are safe since every operation is idempotent.
@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Curriculum:
    """Actor with the state {"config": hash, "seed_counts": {task: n}, "rounds": {round: {"stats", "plan", "mix"}}}.

    Every method takes the caller's attempt number first and raises StageError if a later attempt has started.
    """

    def __init__(self, run_uri: str, config_json: str) -> None:
        self.config = Config.model_validate_json(config_json)
        self.files = StateFiles(run_uri)
        versions = self.files.versions()
        self.attempt = versions[-1][0] if versions else 0
        self.unreadable: StageError | None = None
        new: dict[str, Any] = {"config": self.config.digest(), "seed_counts": {}, "rounds": {}}
        try:
            self.state = self.files.latest() or new
        except StageError as error:
            # Kept for `claim`: Ray would restart an actor whose constructor raises, again and again.
            self.state, self.unreadable = new, error

    def claim(self, attempt: int, config_hash: str) -> None:
        """Serves `attempt` from now on.

        Raises InputError if the configuration is not the run's, and StageError if the state cannot be read.
        """
        if self.unreadable is not None:
            raise self.unreadable
        if config_hash != self.state["config"]:
            raise InputError(
                f"the run's curriculum state belongs to another config (hash {self.state['config']}, now "
                f"{config_hash}); use the config that the run was started with, or another run_dir"
            )
        self._check(attempt)
        if attempt > self.attempt:
            self.files.write(attempt, self.state)
            self.attempt = attempt

    def set_seed_counts(self, attempt: int, counts: dict[str, int]) -> None:
        self._check(attempt)
        if self.state["seed_counts"] != counts:
            self._save({**self.state, "seed_counts": counts})

    def observe(self, attempt: int, round_number: int, stats_json: str) -> None:
        self._check(attempt)
        stats = json.loads(stats_json)
        if self._round(round_number).get("stats") != stats:
            self._save_round(round_number, {"stats": stats})

    def plan(self, attempt: int, round_number: int) -> str:
        self._check(attempt)
        entry = self._round(round_number)
        if "plan" not in entry:
            if "stats" not in entry:
                raise StageError(f"round {round_number} has no scores yet: observe them before planning")
            stats = ScoreStats.model_validate(entry["stats"])
            before = self._round(round_number - 1).get("plan", {}).get("weights")
            plan = make_plan(round_number, stats, self.config, self._taxonomy(), before)
            entry = self._save_round(round_number, {**entry, "plan": plan.model_dump(mode="json")})
        return json.dumps(entry["plan"])

    def plan_mix(self, attempt: int, round_number: int, capacities: list[tuple[str, str, int, int]]) -> str:
        self._check(attempt)
        plan = Plan.model_validate_json(self.plan(attempt, round_number))
        entry = self._round(round_number)
        found = [list(cell) for cell in sorted(capacities)]
        if "mix" not in entry or entry["capacities"] != found:
            cells: dict[Cell, tuple[int, int]] = {(pool, task): (rows, size) for pool, task, rows, size in capacities}
            taxonomy = self._taxonomy()
            if plan.gaps:
                taxonomy = with_weights(taxonomy, plan.weights)
            mix = make_mix(plan, cells, self.config, taxonomy)
            entry = {**entry, "capacities": found, "mix": mix.model_dump(mode="json")}
            self._save_round(round_number, entry)
        return json.dumps(entry["mix"])

    def state_dict(self, attempt: int) -> dict[str, Any]:
        self._check(attempt)
        return self.state

    def load_state_dict(self, attempt: int, state: dict[str, Any]) -> None:
        self._check(attempt)
        if state["config"] != self.config.digest():
            raise InputError("this curriculum state belongs to another config")
        if state != self.state:
            self._save(state)

    def metrics(self, attempt: int) -> dict[str, float]:
        self._check(attempt)
        rounds = self.state["rounds"]
        found: dict[str, float] = {"rounds_planned": sum("plan" in entry for entry in rounds.values())}
        for number, entry in rounds.items():
            shown = (
                "alpha", "threshold", "ceiling", "hard", "easy", "unreliable", "failed", "seen", "unseen", "noise",
                "student_score",
            )  # fmt: skip
            plan = entry.get("plan", {})
            found |= {f"round_{number}/{name}": plan[name] for name in shown if plan.get(name) is not None}
        return found

    def _taxonomy(self) -> tasks.Taxonomy:
        return tasks.load(self.config.curriculum).with_seed_counts(self.state["seed_counts"])

    def _round(self, round_number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.state["rounds"].get(str(round_number), {})
        return found

    def _save_round(self, round_number: int, entry: dict[str, Any]) -> dict[str, Any]:
        rounds = {**self.state["rounds"], str(round_number): entry}
        self._save({**self.state, "rounds": dict(sorted(rounds.items(), key=lambda item: int(item[0])))})
        return entry

    def _save(self, state: dict[str, Any]) -> None:
        """Writes the state to storage, then serves it: a state that a caller has seen is never lost."""
        # The JSON round trip makes the served state equal to the one read after a restart (keys become strings).
        content = json.loads(json.dumps(state))
        self.files.write(self.attempt, content)
        self.state = content

    def _check(self, attempt: int) -> None:
        if attempt < self.attempt:
            raise StageError(_refusal(attempt, self.attempt))


@dataclass(frozen=True)
class Handle:
    """A driver's client of the actor, with its attempt number; can be pickled.

    Calls block until they are answered. Every call raises StageError once a later attempt has started.
    """

    actor: Any
    attempt: int

    def set_seed_counts(self, counts: Mapping[str, int]) -> None:
        """Stores the seed rows by task, the weights of `curriculum.tasks: seed`. Other taxonomies do not use them."""
        _call(self.actor.set_seed_counts, self.attempt, dict(counts))

    def observe(self, round_number: int, stats: ScoreStats) -> None:
        """Stores a round's scores. Different scores replace the stored ones and remove the round's plan and mix."""
        _call(self.actor.observe, self.attempt, round_number, stats.model_dump_json())

    def plan(self, round_number: int) -> Plan:
        """Returns the round's plan, which is made once and stored.

        Raises StageError as `make_plan` does, and for a round without scores.
        """
        return Plan.model_validate_json(_call(self.actor.plan, self.attempt, round_number))

    def plan_mix(self, round_number: int, capacities: Mapping[Cell, tuple[int, int]]) -> Mix:
        """Returns the round's quota table under `sampling.Counts.capacities`; stored until the capacities change."""
        cells = [(pool, task, rows, size) for (pool, task), (rows, size) in sorted(capacities.items())]
        return Mix.model_validate_json(_call(self.actor.plan_mix, self.attempt, round_number, cells))

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state, as JSON values."""
        found: dict[str, Any] = _call(self.actor.state_dict, self.attempt)
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replaces the whole state. Raises InputError if it belongs to another configuration."""
        _call(self.actor.load_state_dict, self.attempt, dict(state))

    def metrics(self) -> dict[str, float]:
        """Returns numbers by name: `{"rounds_planned": 1, "round_1/alpha": 0.3, …}`."""
        found: dict[str, float] = _call(self.actor.metrics, self.attempt)
        return found


def start(run_uri: str, run_id: str, config_json: str, attempt: int) -> Handle:
    """Starts the run's actor, or finds the running one, and has it serve `attempt`.

    Raises InputError if the run belongs to another configuration, and StageError if a later attempt has started.
    """
    # Detached and named: the actor outlives a driver that dies, and the next attempt finds it.
    name = f"curriculum-{run_id}"
    actor = Curriculum.options(  # type: ignore[attr-defined]
        name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, **with_driver()
    ).remote(Storage.at(run_uri).uri, config_json)
    # `get_if_exists` ignores the arguments of an actor that runs already, so the config is compared in `claim`.
    _call(actor.claim, attempt, Config.model_validate_json(config_json).digest())
    return Handle(actor, attempt)


def remove(handle: Handle) -> None:
    """Kills the actor without a restart. The state stays in the run's storage."""
    ray.kill(handle.actor, no_restart=True)


def _call(method: Any, *arguments: Any) -> Any:
    try:
        return ray.get(method.remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        # Ray wraps an actor's exception; callers expect InputError and StageError themselves.
        raise error.cause from None


def _refusal(attempt: int, later: int) -> str:
    return f"attempt {attempt} of this run was overtaken by attempt {later}; this process must stop"
