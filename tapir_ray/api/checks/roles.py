"""Checks of teacher and judge: whether they can be reached, and whether their answers are whole."""

from __future__ import annotations

from collections.abc import Iterator

from tapir_ray.api.checks.base import PASS, UNKNOWN, WARN, Finding, Subject
from tapir_ray.config import SIMULATOR
from tapir_ray.llm.client.reply import CUT_OFF
from tapir_ray.methods import method_of

ASK = "--pilot 50 asks it"
MOST_CUT_OFF = 0.02
"""Share of cut off answers that is reported as a risk."""


def endpoints(subject: Subject) -> Iterator[Finding]:
    """Yields a row for each endpoint. The forecast has already refused one that does not answer or lacks the model."""
    config, pilot = subject.config, subject.report["pilot_rows"]
    asks = method_of(config).asks(config)
    for role, endpoint in config.endpoints.items():
        where = "the simulator" if endpoint.base_url == SIMULATOR else endpoint.base_url or "its provider"
        if not asks:
            yield Finding(role, PASS, "not asked: this run sends no request")
        elif endpoint.spec.local:
            yield Finding(role, PASS, f"{endpoint.model} is loaded by the run itself ({endpoint.engine})")
        elif pilot:
            yield Finding(role, PASS, f"{where} has answered a pilot of {pilot} rows")
        else:
            todo = f"{ASK}; until then nobody knows how it answers"
            yield Finding(role, UNKNOWN, f"{where} is up and has {endpoint.model}; not asked", todo)
    if asks and config.judge.same_as is not None:
        yield Finding("judge", PASS, f"is the {config.judge.same_as}")


def cut_off(subject: Subject) -> Iterator[Finding]:
    """Yields the share of the teacher's answers that `max_tokens` cuts off: such rows are paid for and not used."""
    config = subject.config
    if config.teacher.base_url == SIMULATOR and not subject.report["pilot_rows"]:
        return
    name, limit = "cut off answers", config.teacher.sampling.max_tokens
    asked = sum(subject.sizes.asked[kind] for kind in ("fill", "respond") if kind in subject.sizes.asked)
    if not asked:
        if method_of(config).asks(config):
            yield Finding(name, UNKNOWN, "the teacher was not asked", ASK)
        return
    cut = sum(subject.sizes.reasons[kind][CUT_OFF] for kind in ("fill", "respond") if kind in subject.sizes.reasons)
    found = f"{cut} of {asked} answers of the pilot end at teacher.sampling.max_tokens {limit}"
    if cut <= MOST_CUT_OFF * asked:
        yield Finding(name, PASS, found)
    else:
        yield Finding(name, WARN, found, "raise teacher.sampling.max_tokens: these rows are paid for and left out")
