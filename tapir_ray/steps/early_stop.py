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


def ends(context: Context, round_number: int) -> bool:
    """Returns True if the run is to end after the round before this one, whose scores of the holdout exist.

    The context then has the layout of a run with so many rounds. The scores become those of the last student, so that
    nobody is asked for them again.
    """
    run, loop, last = context.run, context.loop, round_number - 1
    if context.config.curriculum.stop_when == "never" or last < 1:
        return False
    before, after = loop.judged_holdout(last - 1), loop.judged_holdout(last)
    gain = gain_over(run, before, after, context.config.random_seed)
    if gain is None:
        context.progress.say(f"curriculum.stop_when: no holdout row has scores after rounds {last - 1} and {last}")
        return False
    if gain.low > 0:
        return False
    _keep_scores(context, after, last)
    context.layout = loop.ended_after(last)
    if ended(run) != (decided := {"round": last, "gain": asdict(gain)}):
        run.event(ENDED, **decided)
        context.progress.say(sentence(decided))
    return True


def ended(run: Run) -> dict[str, Any] | None:
    """Returns `round` and `gain` of the last decision to end the run; None if there was none.

    After a retry of failed rows the run may have gone on.
    """
    return next(({name: event[name] for name in ("round", "gain")} for event in reversed(run.events(ENDED))), None)


def sentence(decided: dict[str, Any]) -> str:
    """Returns the reason why a run ended early, in one line."""
    gain, last = Gain(**decided["gain"]), decided["round"]
    return (
        f"ends after round {last}, by curriculum.stop_when no_gain: its student gains {in_words(gain)} over the one "
        f"before ({rows_in_words(gain)})"
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
