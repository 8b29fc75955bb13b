"""Requests as the pipeline writes them, from the shipped prompts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tapir_ray.llm.prompts import Prompts
from tapir_ray.simulator.families import FAMILIES
from tapir_ray.simulator.requests import Request, read

PROMPTS = Prompts()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def prompt(name: str, **values: object) -> list[dict[str, str]]:
    return user(PROMPTS.render(name, **values))


def styled(instruction: str, task: str = "Math") -> list[dict[str, str]]:
    return [{"role": "system", "content": PROMPTS.render("respond", task=task, style="In steps.")}, *user(instruction)]


def request(messages: Sequence[dict[str, str]], **values: Any) -> Request:
    return read({"model": "simulated", "messages": list(messages), **values})


def instruction_of(family_name: str, level: int, seed: int = 0) -> str:
    family = next(family for family in FAMILIES if family.name == family_name)
    return family.generate(level, random.Random(seed))
