"""`tapir status RUN`: progress and spending of a run and how to continue it, read from its storage alone.

    found = status("s3://bucket/runs/mine", layout_of)      # JSON values
    print_status(found, sys.stdout)

Writes nothing and needs no Ray. The numbers of a running stage are those of the driver's last heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from tapir_ray.config import Config
from tapir_ray.errors import InputError, Stopped
from tapir_ray.evaluate.control_gain import sentence
from tapir_ray.evaluate.paired import Gain
from tapir_ray.llm.budget.files import UsageFiles
from tapir_ray.llm.budget.ledger import Ledger
from tapir_ray.llm.roles import accounts_of
from tapir_ray.run.attempts import Owner, owner
from tapir_ray.run.layout import SHARDS, Layout, LoopLayout, ShardLayout
from tapir_ray.run.run import Run
from tapir_ray.steps import early_stop
from tapir_ray.steps.context import ROUND_EVENTS

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
KILLED = "killed"
"""The process or its machine ended without storing a reason, and there is no heartbeat."""
NOT_STARTED = "not started"
SHOWN = (("alpha", "α"), ("threshold", "δ"), ("ceiling", "ceiling"), ("hard", "hard"), ("easy", "easy"),
         ("seen", "seen"), ("unseen", "unseen"), ("draws_hard", "draws from hard rows"),
         ("draws_easy", "draws from easy rows"), ("draws_random", "draws from random rows"),
         ("annotations", "annotations"), ("verdict_right", "right"), ("verdict_faulty", "faulty"),
         ("mean_first_faulty", "mean first faulty step"), ("uncertainty", "uncertainty"),
         ("uncertainty_chosen", "of the chosen"), ("student_tokens", "tokens of the student"),
         ("unscored", "unscored units in the mix"), ("probes", "probes"), ("difficulty", "mean difficulty"),
         ("student_score", "student's score"), ("teacher_score", "teacher's score"),
         ("holdout_score", "on the holdout"))  # fmt: skip
"""Keys of a round's numbers, and their names in the output."""
GAIN = ("gain", "gain_low", "gain_high", "gain_rows", "control")
"""Keys of the gain over the control, and of its kind; they are shown in a line of their own."""


def status(uri: str, layout_of: Callable[[Config], Layout]) -> dict[str, Any]:
    """Returns the status of a run as JSON values.

    Takes up to `attempts.PATIENCE_S` if the driver is on another machine. `layout_of` gives the layout of a config's
    method. The main keys:

    - `stages`: stages under way, or those in which the last attempt ended, with rows, rows per second and what waits.
    - `shards`: `finished` and `all` (None until it is known) of a regeneration; None for a run with rounds.
    - `method`: key of `METHODS`. `select`: the rule by which rows are selected; None for a regeneration.
    - `rounds`: the numbers of each round. `spend`: usage by role, and the budget.
    - `reason`: why the last attempt ended. `continue`: the command that continues the run.

    Raises InputError if `uri` holds no run.
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
    trained = sum(run.done(checkpoint) is not None for checkpoint in checkpoints)
    ended = early_stop.ended(run)
    return {
        "run": run.uri,
        "name": config.name,
        "status": state,
        "owner": asdict(last) if last is not None else None,
        "stages": last.stages if last is not None else [],
        "shards": shards_of(run, layout, config) if isinstance(layout, ShardLayout) else None,
        "method": config.work,
        "select": _select(config) if isinstance(layout, LoopLayout) else None,
        "rounds_planned": len(checkpoints),
        "rounds_trained": trained,
        # After a retry the run may have gone on.
        "ended_early": ended if ended is not None and ended["round"] == trained else None,
        "rounds": rounds_of(events),
        "spend": spend(run, config),
        "last_event": events[-1] if events else None,
        "reason": last.reason if last is not None and state != RUNNING else None,
        "continue": _how_to_continue(run, last, state, layout.verb),
    }


def _select(config: Config) -> str:
    return config.elad.select if config.work == "elad" else config.curriculum.difficulty.select


def shards_of(run: Run, layout: ShardLayout, config: Config) -> dict[str, int | None]:
    """Counts the shards of a regeneration: `finished`, and `all`, which is None until the rows are read and cleaned."""
    assert config.regenerate is not None
    cleaned = run.done(layout.ingested)
    finished = [name for name in run.children(SHARDS) if run.done(layout.regenerated.of(f"{SHARDS}/{name}"))]
    return {
        "finished": len(finished),
        "all": None if cleaned is None else -(-cleaned.rows // config.regenerate.shards.rows),
    }


def rounds_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the numbers of each round from its events; later events win. Round 0 is the initial SFT."""
    rounds: dict[int, dict[str, Any]] = {}
    names = {*(name for name, _ in SHOWN), *GAIN}
    for event in events:
        if event["event"] in ROUND_EVENTS:
            entry = rounds.setdefault(event["round"], {"round": event["round"]})
            entry |= {name: event[name] for name in event if name in names}
    return [rounds[number] for number in sorted(rounds)]


def spend(run: Run, config: Config) -> dict[str, Any]:
    """Returns the usage of all attempts by role, and the budget. `unsettled_*` bounds requests without a reply yet."""
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
        return f"start the same command again, which keeps what is finished: {command}"
    if last is not None and last.exit_status == 0:
        # A reason at exit 0 is that of --until. Without one another command ran here, such as `tapir classifier`.
        return f"{command}, without --until" if last.reason is not None else whole
    return f"fix the reason, then start the same command again: {command}"


def print_status(found: dict[str, Any], file: TextIO) -> None:
    """Prints the status for people."""

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
        section = "elad" if found.get("method") == "elad" else "curriculum.difficulty"
        rule = "" if found["select"] == "hard" else f"; {section}.select {found['select']}"
        say(f"rounds trained: {found['rounds_trained']} of {found['rounds_planned']}{rule}")
    else:
        of = "; their number is known once the rows are cleaned" if shards["all"] is None else f" of {shards['all']}"
        say(f"shards finished: {shards['finished']}{of}")
    if found.get("ended_early") is not None:
        say(early_stop.sentence(found["ended_early"]))
    for entry in found["rounds"]:
        numbers = [f"{word} {entry[name]:.4g}" for name, word in SHOWN if entry.get(name) is not None]
        if numbers:
            say(f"round {entry['round']}: {', '.join(numbers)}")
        if entry.get("gain") is not None:
            mean, low, high, rows, control = (entry[name] for name in GAIN)
            say(f"round {entry['round']}: {sentence(control, Gain(mean, low, high, rows, left_out=0))}")
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
    """Returns a stage of `Progress.told` as one line."""
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
            f"; requests without a reply cost at most ${spent['unsettled_cost']:,.4f}, "
            f"{spent['unsettled_tokens']:,.0f} tokens"
        )
    return [*lines, f"spent: {cost}, {tokens} tokens{unknown}"]
