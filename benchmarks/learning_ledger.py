"""Calls and tokens of an arm by kind of request, and their dollars at list prices.

    ledger.asked("expand", [instruction], new_instruction, prompt_bytes=words("expand"))
    ledger.usage(student.count)["expand"]          # {"calls": 3000, "input": 1080000, "output": 61000}

Problems and answers are counted by the student's tokenizer. The English words around them, of prompts and of the
judge's replies, are not in its vocabulary: they count a token for every four bytes, as `tapir check` forecasts.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tapir_ray.config.price import Price
from tapir_ray.cost.sizes import BYTES_PER_TOKEN
from tapir_ray.llm.prompts import Prompts, variables

PRICES = {
    "teacher": Price(input=2.0, output=8.0),
    "judge": Price(input=2.0, output=8.0),
}
"""Dollars per million tokens. Both are the list price of gpt-4.1, the default model of teacher and judge, in
genai-prices 0.2.3 as of December 2026, without discounts for cached input or batches."""
EXPANSION, ANSWER, JUDGEMENT = "expand", "answer", "judge"
ROLE = {EXPANSION: "teacher", ANSWER: "teacher", JUDGEMENT: "judge"}
"""Role that is paid for a kind of request. Work of the student has no price here."""
STUDENT_ANSWERS, STUDENT_SAMPLES, STUDENT_LOSSES = "student_answers", "student_samples", "student_losses"

Usage = dict[str, dict[str, int]]
"""Calls, input tokens and output tokens by kind."""


@dataclass
class Entry:
    """Requests of one kind."""

    calls: int = 0
    asked: list[str] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    asked_tokens: float = 0.0
    """Input tokens that are not those of `asked`."""
    reply_tokens: float = 0.0


@dataclass
class Ledger:
    """Requests of an arm by kind."""

    entries: dict[str, Entry] = field(default_factory=lambda: defaultdict(Entry))

    def asked(
        self, kind: str, texts: Sequence[str], reply: str = "", *, prompt_bytes: float = 0.0, reply_bytes: float = 0.0
    ) -> None:
        """Notes a request that shows `texts` among words of `prompt_bytes`, and its reply."""
        entry = self.entries[kind]
        entry.calls += 1
        entry.asked += texts
        entry.replies.append(reply)
        entry.asked_tokens += prompt_bytes / BYTES_PER_TOKEN
        entry.reply_tokens += reply_bytes / BYTES_PER_TOKEN

    def read(self, kind: str, passes: int, tokens: int) -> None:
        """Notes forward passes over `tokens`."""
        self.entries[kind].calls += passes
        self.entries[kind].asked_tokens += tokens

    def calls(self, role: str) -> int:
        """Returns the requests to the teacher or the judge."""
        return sum(entry.calls for kind, entry in self.entries.items() if ROLE.get(kind) == role)

    def usage(self, count: Callable[[Sequence[str]], int]) -> Usage:
        """Returns calls and tokens by kind; `count` gives the tokens of texts."""
        return {
            kind: {
                "calls": entry.calls,
                "input": count(entry.asked) + round(entry.asked_tokens),
                "output": count(entry.replies) + round(entry.reply_tokens),
            }
            for kind, entry in self.entries.items()
        }


@functools.cache
def words(prompt: str, **values: str) -> int:
    """Returns the bytes of a shipped prompt with `values`, without its other texts."""
    return len(Prompts().render(prompt, **{**dict.fromkeys(variables(prompt), ""), **values}).encode())


def dollars(usage: Mapping[str, Mapping[str, float]]) -> float:
    """Returns the price of a usage: tokens of teacher and judge by PRICES."""
    total = 0.0
    for kind, spent in usage.items():
        if kind in ROLE:
            price = PRICES[ROLE[kind]]
            total += (spent["input"] * price.input + spent["output"] * price.output) / 1e6
    return total


def student_tokens(usage: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns the tokens that the student wrote in answers and samples, and read for losses; kinds without any are
    left out."""
    written = {kind: usage[kind]["output"] for kind in (STUDENT_ANSWERS, STUDENT_SAMPLES) if kind in usage}
    return written | {kind: usage[kind]["input"] for kind in (STUDENT_LOSSES,) if kind in usage}


def mean_usage(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns input and output tokens of one call, by kind of paid request, over the lines that have a usage."""
    total: dict[str, dict[str, float]] = {}
    for line in lines:
        for kind, spent in line.get("usage", {}).items():
            if kind in ROLE:
                sums = total.setdefault(kind, dict.fromkeys(("calls", "input", "output"), 0.0))
                for name in sums:
                    sums[name] += spent[name]
    return {
        kind: {name: sums[name] / sums["calls"] for name in ("input", "output")}
        for kind, sums in total.items()
        if sums["calls"]
    }
