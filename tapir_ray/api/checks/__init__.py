"""Checks of `tapir check`, a file for each subject: what is fine, what is risky, what will fail, and what to change.

findings = checked(Subject(config, "runs/mine", seed, sizes, report, messages))
"""

from __future__ import annotations

from tapir_ray.api.checks.base import FAIL, PASS, UNKNOWN, WARN, Check, Finding, Subject
from tapir_ray.api.checks.config_keys import budget, settings
from tapir_ray.api.checks.memory import answering, capacity, training
from tapir_ray.api.checks.roles import cut_off, endpoints
from tapir_ray.api.checks.seed_rows import length, repeated_answers
from tapir_ray.api.checks.storage import disk
from tapir_ray.api.checks.template import end_of_answers

__all__ = ["FAIL", "PASS", "UNKNOWN", "WARN", "Check", "Finding", "Subject", "checked"]

CHECKS: tuple[Check, ...] = (
    settings,
    endpoints,
    cut_off,
    end_of_answers,
    length,
    repeated_answers,
    capacity,
    answering,
    training,
    disk,
    budget,
)
"""In the order of the table."""


def checked(subject: Subject) -> list[Finding]:
    """Returns the findings of all checks."""
    return [finding for check in CHECKS for finding in check(subject)]
