"""`prompt_leakage`: an instruction in which the teacher repeats the prompt that asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from tapir_ray.config import Config
from tapir_ray.data.schemas import text_of
from tapir_ray.data.words import width
from tapir_ray.llm.prompts import Prompts, variables
from tapir_ray.transforms.filters.base import Row, RowFilter

LEAK_CHARS = 30
"""Least width of a fixed part of the expansion prompt that proves a leak; 30 Latin or 15 Chinese characters. Ordinary
instructions may contain shorter parts."""


@dataclass(frozen=True)
class PromptLeakage(RowFilter):
    """Filters rows with one of `lines`, or with a tag of the prompt's answer format."""

    reasons: ClassVar = {
        "prompt_leakage": "the teacher repeats its prompt: change its prompt in prompts.dir, or use another teacher"
    }
    keys = ("prompts.dir", "expand.prompt")
    lines: Sequence[str]

    @classmethod
    def of(cls, config: Config) -> Sequence[Self]:
        kind = config.expand.prompt
        # A draw of `feedback` whose parent has no reasons gets the prompt `expand`.
        names = ["expand"] if kind == "like" else ["expand", kind]
        return [cls([line for name in names for line in prompt_lines(Prompts(config.prompts.dir), name)])]

    def reason(self, row: Row) -> str | None:
        text = text_of(row["messages"]).lower()
        leaks = "new_instruction>" in text or any(line in text for line in self.lines)
        return "prompt_leakage" if leaks else None


def prompt_lines(prompts: Prompts, name: str = "expand") -> list[str]:
    """Returns the fixed parts of an expansion prompt that are at least LEAK_CHARS wide, in lower case."""
    # Rendered with NUL for every variable, so that splitting at NUL leaves the fixed parts.
    lines = prompts.render(name, **dict.fromkeys({*variables(name), "text_id"}, "\0")).lower().splitlines()
    return [part.strip() for line in lines for part in line.split("\0") if width(part.strip()) >= LEAK_CHARS]
