"""Entry of the control in `summary.json` and in the output of a run: whether the curriculum paid.

entry = control_entry(context, 2)                # {"student_score": …, "tokens": …, "gain": {"mean": …, …}, …}
lines = control_lines(summary)
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tapir_ray.data.schemas import OK
from tapir_ray.evaluate.control_gain import control_gain, scores_of_both, sentence
from tapir_ray.evaluate.paired import Gain
from tapir_ray.run.layout import ControlExpansions
from tapir_ray.steps.context import Context

TOLERANCE = 0.01
"""Share by which the trained tokens of the two students may differ without a warning, unless it is one sequence."""


def control_entry(context: Context, round_number: int) -> dict[str, Any] | None:
    """Returns the entry of the control next to a round; None without a control.

    Scores are over all holdout rows that both students have a score for. Tokens are those trained on in the round.
    """
    run, config, layout = context.run, context.config, context.loop
    if not layout.controls:
        return None
    tables = layout.control(round_number)
    trained = [run.manifest(table).extra for table in (tables.checkpoint, layout.checkpoint(round_number))]
    tokens, of_student = (int(extra.get("tokens", 0)) for extra in trained)
    losses = trained[0].get("holdout_losses")
    control, student = scores_of_both(run, layout, round_number)
    gain = control_gain(run, layout, round_number, config.random_seed)
    apart = abs(tokens - of_student)
    warnings = []
    if apart > max(config.train.sequence_length, TOLERANCE * of_student):
        warnings.append(f"trained on {tokens:,} tokens, the curriculum on {of_student:,}: they cannot be compared")
    return {
        "by": config.control,
        **_generated(context, tables.expansions),
        "student_score": control,
        "curriculum_score": student,
        "tokens": tokens,
        "curriculum_tokens": of_student,
        "holdout_loss": round(losses[-1][1], 4) if losses else None,
        "gain": gain and asdict(gain),
        "warnings": warnings,
    }


def _generated(context: Context, expansions: ControlExpansions | None) -> dict[str, Any]:
    """Counts the control's own new instructions, and those filtered by reason; None without any."""
    if expansions is None:
        return {"generated": None, "filtered": {}}
    made = context.run.manifest(expansions.generated)
    return {"generated": made.count(OK), "filtered": made.reasons}


def control_lines(summary: dict[str, Any]) -> list[str]:
    """Returns a line for each round with its gain and tokens, and a line that says how to read them."""
    lines = []
    for entry in summary["rounds"]:
        if (control := entry["control"]) is None:
            continue
        said = (
            "no holdout row has both scores" if control["gain"] is None else gain_line(control["by"], control["gain"])
        )
        tokens = f"{control['curriculum_tokens']:,} and {control['tokens']:,} tokens"
        lines.append(f"round {entry['round']}: {said}; {tokens}")
    if lines:
        lines.append(
            "compared over all holdout rows, also those that choose the round: the last round is the result of the "
            "comparison, whichever is the best; paired bootstrap, 95 %"
        )
    return lines


def gain_line(by: str, gain: dict[str, Any]) -> str:
    """Returns a stored gain as a sentence."""
    return sentence(by, Gain(**gain))
