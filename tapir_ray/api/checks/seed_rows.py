"""Checks of the seed data for what no error reports: pairs that are too long, and answers that repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tapir_ray.api.checks.base import PASS, UNKNOWN, WARN, Finding, Subject
from tapir_ray.methods import method_of

MOST_OVER_LENGTH = 0.01
"""Share of pairs over the limit that is reported as a risk."""
MOST_REPEATED, FEWEST_TIMES, LONG = 0.02, 3, 40
"""Share of rows with a repeated answer that is reported, times that an answer has to occur, and characters that it has
to have: short answers, such as yes and 7, repeat by nature."""
MOST_SHORT = 0.2
"""Share of all rows that one answer of any length may have."""
SHOWN = 60


def length(subject: Subject) -> Iterator[Finding]:
    """Yields the share of the seed data's pairs above `train.sequence_length`."""
    share, limit = subject.report["over_length_share"], subject.config.train.sequence_length
    if not method_of(subject.config).trains:
        return
    if share is None:
        if any(row["response"] is not None for row in subject.seed.sample):
            created = subject.config.student.create is not None
            why = "a created student has no tokenizer yet" if created else "the student's tokenizer is not here"
            yield Finding("length", UNKNOWN, f"{why}: pairs were not measured", "the run says how many it leaves out")
        return
    fate = "truncated" if subject.report["over_length"] == "truncate" else "filtered"
    found = f"{share:.1%} of the answered seed rows are longer than train.sequence_length {limit}"
    if share <= MOST_OVER_LENGTH:
        yield Finding("length", PASS, found)
    else:
        yield Finding("length", WARN, f"{found} and will be {fate}", "raise train.sequence_length")


def repeated_answers(subject: Subject) -> Iterator[Finding]:
    """Yields whether the same answer stands under many instructions, as after a join or an export that went wrong."""
    answers = [" ".join(row["response"].split()) for row in subject.seed.sample if row["response"] is not None]
    if not answers or subject.config.seed_data.responses == "replace":
        return
    (top, times), *_ = Counter(answers).most_common(1)
    repeated = {answer: n for answer, n in Counter(answers).items() if n >= FEWEST_TIMES and len(answer) >= LONG}
    share = sum(repeated.values()) / len(answers)
    if share > MOST_REPEATED:
        (most, n), *_ = Counter(repeated).most_common(1)
        found = f"{share:.1%} of the answers stand under {FEWEST_TIMES} instructions or more; {n} times: {_short(most)}"
    elif times > MOST_SHORT * len(answers) and times >= FEWEST_TIMES:
        found = f"{times} of {len(answers)} answers are: {_short(top)}"
    else:
        yield Finding("repeated answers", PASS, f"{share:.1%} of {len(answers):,} answers")
        return
    todo = "look at these rows; take them out of the seed data, or set seed_data.responses replace"
    yield Finding("repeated answers", WARN, found, todo)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
