"""`curriculum.stop_when: no_gain`: ends a run after a round whose student is not shown to be better than before.

    if early_stop.ends(context, 3): ...           # after the scores of round 3, which tell how good round 2 was

The decision depends on stored scores alone, so a continued run decides the same.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.data.schemas import HOLDOUT, SCORED, conform
from tapir_ray.evaluate.control_gain import gain_over
from tapir_ray.evaluate.paired import Gain, in_words, rows_in_words
from tapir_ray.run.layout import Table
from tapir_ray.run.run import Run
from tapir_ray.steps.context import Context
from tapir_ray.steps.evaluate import SUITE, note_holdout

ENDED = "ended_early"
"""Event of a run that ended before its last round: `round` is the last one, `gain` that of its student."""

DECIDED = ("round", "gain", "rounds", "reason")
"""Fields of the event."""


def ends(context: Context, round_number: int) -> bool:
    """Returns True if the run is to end after the round before this one, whose scores of the holdout exist.

    The context then has the layout of a run with so many rounds. The scores become those of the last student, so that
    nobody is asked for them again.
    """
    settings, last = context.config.curriculum, round_number - 1
    if settings.stop_when == "never" or last < context.config.stop_rounds:
        return False
    gain: Gain | None = None
    for after in range(last - context.config.stop_rounds + 1, last + 1):
        gain = _gain(context, after)
        if gain is None or gain.low > 0:
            return False
    assert gain is not None
    several = {"rounds": context.config.stop_rounds} if context.config.stop_rounds > 1 else {}
    end(context, last, gain=asdict(gain), **several)
    return True


def _gain(context: Context, number: int) -> Gain | None:
    """Returns the gain of the student of a round over the one before; None without a holdout row that both scored."""
    loop = context.loop
    gain = gain_over(
        context.run, loop.judged_holdout(number - 1), loop.judged_holdout(number), context.config.random_seed
    )
    if gain is None:
        context.progress.say(f"curriculum.stop_when: no holdout row has scores after rounds {number - 1} and {number}")
    return gain


def end(context: Context, last: int, **why: Any) -> None:
    """Ends the run after the round `last`, whose student's scores of the holdout exist; `why` is for `sentence`."""
    run, decided = context.run, {"round": last, **why}
    _keep_scores(context, context.loop.judged_holdout(last), last)
    context.layout = context.loop.ended_after(last)
    if ended(run) != decided:
        run.event(ENDED, **decided)
        context.progress.say(sentence(decided))


def ended(run: Run) -> dict[str, Any] | None:
    """Returns `round`, and `gain` or `reason`, of the last decision to end the run; None if there was none.

    After a retry of failed rows the run may have gone on.
    """
    found = run.events(ENDED)
    return {name: found[-1][name] for name in DECIDED if name in found[-1]} if found else None


def sentence(decided: dict[str, Any]) -> str:
    """Returns the reason why a run ended early, in one line."""
    last = decided["round"]
    if "gain" not in decided:
        return f"ends after round {last}: {decided['reason']}"
    gain, rounds = Gain(**decided["gain"]), decided.get("rounds", 1)
    so_on = f", the last of {rounds} rounds in a row without a gain" if rounds > 1 else ""
    return (
        f"ends after round {last}, by curriculum.stop_when no_gain: its student gains {in_words(gain)} over the one "
        f"before ({rows_in_words(gain)}){so_on}"
    )


def _keep_scores(context: Context, scored: Table, last: int) -> None:
    """Writes the results of the holdout for the last student, from the scores of the round that is not made."""
    table = context.loop.evaluation
    if context.run.done(table):
        return
    rows = context.map(context.read(scored), _held)
    context.write(table, rows, f"holdout after round {last}", extra={SUITE: HOLDOUT})
    note_holdout(context, table, last)


def _held(batch: pa.Table) -> pa.Table:
    return conform(batch.filter(pc.equal(batch["split"], HOLDOUT)), SCORED)
