"""`tapir eval`: prints the results of a run's students, or of any model, and their comparisons."""

from __future__ import annotations

from typing import Any, TextIO

from tapir_ray.api.students import AGAINST
from tapir_ray.config.evaluate import INITIAL, LAST
from tapir_ray.report.console import console
from tapir_ray.report.suites import WHO, print_suite


def show(found: dict[str, Any], file: TextIO) -> None:
    """Prints the results of `evaluate_students` for people: a table for each suite, comparisons, and the runs."""
    out, names = console(file), [one["target"] for one in found["targets"]]
    shown = {LAST: names[0], INITIAL: WHO[INITIAL], AGAINST: names[-1]}
    for name, results in found["suites"].items():
        print_suite(name, results, out, shown)
    for sentence in found["warnings"]:
        out.print(f"warning: {sentence}", soft_wrap=True)
    for one in found["targets"]:
        out.print(f"results of {one['target']}: {one['run']}", soft_wrap=True)
