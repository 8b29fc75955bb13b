"""`tapir status RUN`: where a run is, what it has spent and how it goes on, from its storage alone.

    found = status("s3://bucket/runs/mine", layout_of)      # JSON values
    print_status(found, sys.stdout)

Nothing is written, and no Ray is needed. What a running stage has done comes from its driver's last heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from tapir_ray.config import Config
from tapir_ray.errors import InputError, Stopped
from tapir_ray.llm.budget.files import UsageFiles
from tapir_ray.llm.budget.ledger import Ledger
from tapir_ray.llm.roles import accounts_of
from tapir_ray.run.attempts import Owner, owner
from tapir_ray.run.layout import SHARDS, Layout, LoopLayout, ShardLayout
from tapir_ray.run.run import Run
from tapir_ray.steps.context import ROUND_EVENTS

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
KILLED = "killed"
"""Its process or machine is gone without a word: no heartbeat, and no reason on storage."""
NOT_STARTED = "not started"
SHOWN = (("alpha", "α"), ("threshold", "δ"), ("hard", "hard"), ("easy", "easy"), ("difficulty", "mean difficulty"),
         ("student_score", "student's score"), ("teacher_score", "teacher's score"),
         ("holdout_score", "on the holdout"))  # fmt: skip
"""Numbers of a round, and their names for a person."""


def status(uri: str, layout_of: Callable[[Config], Layout]) -> dict[str, Any]:
    """What the run's storage says; takes up to `attempts.PATIENCE_S` if its driver is on another machine.

    `layout_of` gives the layout of a config's method.

    `stages` are those under way, or those in which the last attempt ended, with rows, rows a second and what waits;
    `shards` is of a regeneration (`finished`, and `all` once that is known), which has no rounds, and else None;
    `rounds` the plans by round, `spend` by role against the budget; `reason` says why it ended and `continue` how it
    goes on. Raises InputError where there is no run.
    """
    run = Run.at(uri)
    if not run.exists("config.yaml"):
        raise InputError(f"{run.uri} holds no run (no config.yaml): give the --run-dir that it was started with")
    config = run.stored_config()
    last = owner(run)
    done = (run.find_json("summary.json") or {}).get("status") == DONE
    state = _state(last, done)
    events = run.all_events()
    layout = layout_of(config)
    checkpoints = [one.checkpoint for one in layout.rounds] if isinstance(layout, LoopLayout) else []
    return {
        "run": run.uri,
        "name": config.name,
        "status": state,
        "owner": asdict(last) if last is not None else None,
        "stages": last.stages if last is not None else [],
        "shards": shards_of(run, layout, config) if isinstance(layout, ShardLayout) else None,
        "rounds_planned": len(checkpoints),
        "rounds_trained": sum(run.done(checkpoint) is not None for checkpoint in checkpoints),
        "rounds": rounds_of(events),
        "spend": spend(run, config),
        "last_event": events[-1] if events else None,
        "reason": last.reason if last is not None and state != RUNNING else None,
        "continue": _how_to_continue(run, last, state, layout.verb),
    }


def shards_of(run: Run, layout: ShardLayout, config: Config) -> dict[str, int | None]:
    """How many shards of a regeneration are finished, and `all` there are; None before its rows are read and
    cleaned."""
    assert config.regenerate is not None
    cleaned = run.done(layout.ingested)
    finished = [name for name in run.children(SHARDS) if run.done(layout.regenerated.of(f"{SHARDS}/{name}"))]
    return {
        "finished": len(finished),
        "all": None if cleaned is None else -(-cleaned.rows // config.regenerate.shards.rows),
    }


def rounds_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of each round that its events have; of several the last. Round 0 is the initial SFT."""
    rounds: dict[int, dict[str, Any]] = {}
    names = {name for name, _ in SHOWN}
    for event in events:
        if event["event"] in ROUND_EVENTS:
            entry = rounds.setdefault(event["round"], {"round": event["round"]})
            entry |= {name: event[name] for name in event if name in names}
    return [rounds[number] for number in sorted(rounds)]


def spend(run: Run, config: Config) -> dict[str, Any]:
    """What all attempts have used by role, and the budget; `unsettled_*` is at most used by what is on its way."""
    used = Ledger(accounts_of(config), config.budget, UsageFiles(run.uri, attempt=0)).snapshot()
    return {
        "roles": used,
        "cost": round(sum(role["cost"] for role in used.values()), 6),
        "tokens": sum(role["input_tokens"] + role["output_tokens"] for role in used.values()),
        "unsettled_cost": round(sum(role["unsettled_cost"] for role in used.values()), 6),
        "unsettled_tokens": sum(role["unsettled_tokens"] for role in used.values()),
        "max_cost": config.budget.max_cost,
        "max_tokens": config.budget.max_tokens,
    }


def _state(last: Owner | None, done: bool) -> str:
    if last is None:
        return NOT_STARTED
    if last.alive:
        return RUNNING
    if last.ended is None:
        return KILLED
    if last.exit_status == 0:
        return DONE if done else STOPPED
    return STOPPED if last.exit_status == Stopped.exit_status else FAILED


def _how_to_continue(run: Run, last: Owner | None, state: str, verb: str) -> str | None:
    if state in (RUNNING, DONE):
        return None
    whole = f"tapir {verb} CONFIG --run-dir {run.uri}"
    command = last.command if last is not None and last.command else whole
    if state == NOT_STARTED:
        return whole
    if state == KILLED:
        return f"the same command takes it over, and what is finished is kept: {command}"
    if last is not None and last.exit_status == 0:
        return f"{command}, without --until" if last.reason is not None else whole
    return f"the same command, once the reason is seen to: {command}"


def print_status(found: dict[str, Any], file: TextIO) -> None:
    """The status for a person."""

    def say(line: str) -> None:
        print(line, file=file)

    say(f"{found['run']}: {found['status']}")
    if (who := found["owner"]) is not None:
        seen = f", last heartbeat {who['heartbeat']}" if who["heartbeat"] and not who["ended"] else ""
        until = f" until {who['ended']}" if who["ended"] else ""
        say(f"attempt {who['attempt']}: process {who['pid']} of {who['user']} on {who['host']}, since {who['since']}"
            f"{until}{seen}")  # fmt: skip
    for submission_id, state in found.get("jobs", {}).items():
        say(f"job {submission_id}: {state}")
    for stage in found["stages"]:
        say(f"{'in' if found['status'] == RUNNING else 'ended in'} {in_words(stage)}")
    if (shards := found["shards"]) is None:
        say(f"rounds trained: {found['rounds_trained']} of {found['rounds_planned']}")
    else:
        of = (
            "; how many there are is seen once the rows are cleaned"
            if shards["all"] is None
            else f" of {shards['all']}"
        )
        say(f"shards finished: {shards['finished']}{of}")
    for entry in found["rounds"]:
        numbers = [f"{word} {entry[name]:.4g}" for name, word in SHOWN if entry.get(name) is not None]
        say(f"round {entry['round']}: {', '.join(numbers)}")
    for line in _spend_in_words(found["spend"]):
        say(line)
    if (event := found["last_event"]) is not None:
        rest = {key: value for key, value in event.items() if key not in ("time", "event", "attempt")}
        what = ", ".join(f"{key} {value}" for key, value in rest.items() if not isinstance(value, dict | list))
        say(f"last event: {event['time']} {event['event']} {what}".rstrip())
    for name in ("reason", "continue"):
        if found[name] is not None:
            say(f"{name}: {found[name]}")


def in_words(stage: dict[str, Any]) -> str:
    """A stage of `Progress.told` in a line."""
    parts = [stage["label"]]
    if stage["table"] is not None:
        expected = f" of {stage['expected']:,}" if stage["expected"] is not None else ""
        rows = f"{stage['rows']:,}{expected} rows, {stage['rows_per_second']:.1f} rows/s, {stage['failed']} failed"
        parts.append(f"{rows}, the last {stage['seconds_without_row']:.0f} s ago")
    parts += [f"{key} {value}" for key, value in stage["facts"].items()]
    parts += [stage["waits"]] if stage["waits"] else []
    return "; ".join(parts)


def _spend_in_words(spent: dict[str, Any]) -> list[str]:
    lines = []
    for role, used in spent["roles"].items():
        tokens = used["input_tokens"] + used["output_tokens"]
        lines.append(
            f"{role}: {used['requests']:,.0f} requests, {used['failed']:,.0f} failed, {tokens:,.0f} tokens, "
            f"${used['cost']:,.4f}"
        )
    cost = f"${spent['cost']:,.4f}" + (f" of ${spent['max_cost']:,.2f}" if spent["max_cost"] is not None else "")
    tokens = f"{spent['tokens']:,.0f}" + (f" of {spent['max_tokens']:,}" if spent["max_tokens"] is not None else "")
    unknown = ""
    if spent["unsettled_tokens"]:
        unknown = (
            f"; on its way or unknown at most ${spent['unsettled_cost']:,.4f}, {spent['unsettled_tokens']:,.0f} tokens"
        )
    return [*lines, f"spent: {cost}, {tokens} tokens{unknown}"]
