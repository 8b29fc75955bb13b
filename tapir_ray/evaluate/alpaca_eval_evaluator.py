"""Evaluators of the package alpaca-eval: the prompt that asks which of two answers is better, and the verdict in it.

    evaluator = load_evaluator("weighted_alpaca_eval_gpt4_turbo")
    evaluator.messages("2+2?", output_1="5", output_2="4")         # the judge is asked with these
    evaluator.preference({"m": -2.3, "M": -0.1})                   # 1.9: output_2, called M, is better

The files of the evaluator are read from the installed package, which is not imported. The requests go through the run's
own client, because the package's would know nothing of the run's limits, cache and budget.
"""

from __future__ import annotations

import importlib.util
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tapir_ray.data.schemas import Message
from tapir_ray.errors import InputError

KEY = "evaluate.alpaca_eval.evaluator"
PACKAGE, FOLDER = "alpaca_eval", "evaluators_configs"
PARSER = "logprob_parser"
"""Parser of the package whose evaluators answer with one token."""
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)\s*<\|im_end\|>", re.DOTALL)
_SLOT = re.compile(r"\{(instruction|output_1|output_2)\}")


@dataclass(frozen=True)
class Evaluator:
    """Evaluator with a verdict of one token, the name of the better answer."""

    name: str
    turns: tuple[tuple[str, str], ...]
    """(role, text with `{instruction}`, `{output_1}` and `{output_2}`) of each message."""
    model: str
    """Judge that the evaluator was validated with."""
    first: str
    """Token that names output_1."""
    others: tuple[str, ...]
    """Tokens that name output_2."""
    whole: bool
    """Whether a verdict is a whole win or loss instead of a probability."""
    temperature: float
    max_tokens: int
    top_logprobs: int

    def messages(self, instruction: str, output_1: str, output_2: str) -> list[Message]:
        """Returns the messages of a request. Texts that look like a slot of the prompt stay as they are."""
        values = {"instruction": instruction, "output_1": output_1, "output_2": output_2}
        return [{"role": role, "content": _SLOT.sub(lambda slot: values[slot[1]], text)} for role, text in self.turns]

    def preference(self, logprobs: Mapping[str, float]) -> float | None:
        """Returns 2 − p, where p is the probability of output_1 among the tokens that name an answer.

        None if no such token is among the likeliest. Log probabilities are natural.
        """
        highest = max(logprobs.values(), default=0.0)
        first, *others = (math.exp(logprobs.get(token, -math.inf) - highest) for token in (self.first, *self.others))
        if not (total := first + sum(others)):
            return None
        if self.whole:
            return 1.0 if all(first > other for other in others) else 2.0
        return 2.0 - first / total

    def preference_in(self, text: str) -> float | None:
        """Returns 1 or 2 for a reply that is the name of an answer, in quotes or with a full stop; else None."""
        named = text.strip().strip("\"'`*.").strip()
        return 1.0 if named == self.first else 2.0 if named in self.others else None


def switched(instruction: str) -> bool:
    """Whether the model's answer is shown first, as the package decides by a hash of the instruction (its seed 0)."""
    return bool(random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0])


def load_evaluator(name: str) -> Evaluator:
    """Returns an evaluator of the installed package. Raises InputError without it, and for one that cannot be used."""
    folder = _folder()
    file = folder / name / "configs.yaml"
    if not re.fullmatch(r"[\w.-]+", name) or not file.is_file():
        raise InputError(f"{KEY} {name} is not an evaluator of the package; use one of {', '.join(_usable(folder))}")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings = next(iter(content.values())) if isinstance(content, dict) and len(content) == 1 else {}
    asked, parser = settings.get("completions_kwargs", {}), settings.get("completion_parser_kwargs", {})
    if settings.get("fn_completion_parser") != PARSER or parser.keys() & {"log_prob_index"}:
        raise InputError(
            f"{KEY} {name} does not answer with one token, so it cannot be used here; use one of "
            f"{', '.join(_usable(folder))}"
        )
    template = (folder / settings["prompt_template"]).read_text(encoding="utf-8")
    first = parser["numerator_token"]
    return Evaluator(
        name=name,
        turns=tuple((role, text.strip()) for role, text in _TURN.findall(template)),
        model=asked["model_name"],
        first=first,
        others=tuple(token for token in parser["denominator_tokens"] if token != first),
        whole=parser.get("is_binarize", True),
        temperature=float(asked.get("temperature", 0.0)),
        max_tokens=asked.get("max_tokens", 1),
        top_logprobs=asked.get("top_logprobs", 5),
    )


def _usable(folder: Path) -> list[str]:
    return sorted(
        file.parent.name
        for file in folder.glob("*/configs.yaml")
        if PARSER in (text := file.read_text(encoding="utf-8")) and "log_prob_index" not in text
    )


def _folder() -> Path:
    found: Any = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "the suite alpaca_eval needs the package alpaca-eval for its evaluators: pip install "
            "'tapir-ray[alpaca-eval]'"
        )
    return Path(found.submodule_search_locations[0]) / FOLDER
