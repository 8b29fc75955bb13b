"""Task taxonomy of a run: labels, mixture weights, answering styles, criteria, and words of the heuristic labeller.

taxonomy = load(config.curriculum)
taxonomy.effective_weights({"Math", "Grammar"})      # {"Grammar": 0.092, "Math": 0.908}
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tapir_ray.config import Curriculum
from tapir_ray.config.yaml_files import read_yaml
from tapir_ray.curriculum.rubric import CRITERIA, Rubric, Rubrics, parse_rubric
from tapir_ray.data.values import one_line
from tapir_ray.data.words import units
from tapir_ray.errors import InputError, StageError

SHIPPED = Path(__file__).parent / "tasks.yaml"
OTHERS, TOXICITY = "Others", "Toxicity"
PLAIN_STYLE = "Answer clearly, completely and in a fitting order."
"""Style of a label that only the user's seed data has."""
TOLERANCE = 1e-3
"""Allowed deviation of the sum of weights from 1."""


@dataclass(frozen=True)
class Taxonomy:
    """Task labels in the order of their file. `weights` sum to 1; a task of weight 0 is never trained on."""

    labels: tuple[str, ...]
    weights: Mapping[str, float]
    styles: Mapping[str, str]
    words: Mapping[str, tuple[str, ...]]
    rubrics: Rubrics
    """Criteria of the judge by task, for `judge.mode: rubric`."""
    from_seed: bool = False
    """True if the weights are placeholders until `with_seed_counts`."""
    toxicity: bool = True
    styled: frozenset[str] | None = None
    """Tasks whose answers are written in their style; None: all. `styles` has these alone."""

    def styling(self, tasks: Sequence[str] | Literal["all"], complete: bool = True) -> Taxonomy:
        """Returns the taxonomy with the styles of `tasks` alone (`rewrite.tasks`).

        Raises InputError for a label that is not in the taxonomy, unless it is not `complete`: the seed data may have
        tasks of its own.
        """
        if tasks == "all":
            return self
        for label in tasks if complete else ():
            self.check(label, "rewrite.tasks")
        styles = {label: style for label, style in self.styles.items() if label in tasks}
        return dataclasses.replace(self, styles=styles, styled=frozenset(tasks))

    def is_styled(self, label: str) -> bool:
        """Returns True if answers of the task are written in its style."""
        return self.styled is None or label in self.styled

    def effective_weights(self, present: Collection[str]) -> dict[str, float]:
        """Returns the weights of the present tasks, scaled to sum to 1, in the order of their names.

        Tasks of weight 0 are left out. Raises StageError if no present task has a weight.
        """
        kept = {label: self.weights[label] for label in sorted(present) if self.weights.get(label, 0.0) > 0.0}
        if not kept:
            found = ", ".join(sorted(present)) or "none"
            raise StageError(
                f"no row has a task with a mixture weight (tasks found: {found}); change curriculum.weights or "
                "curriculum.tasks (`seed` takes the seed data's own tasks)"
            )
        total = sum(kept.values())
        return {label: weight / total for label, weight in kept.items()}

    def absent(self, present: Collection[str]) -> list[str]:
        """Returns the tasks with a weight that are not in `present`."""
        return [label for label in self.labels if self.weights[label] > 0.0 and label not in present]

    def with_seed_counts(self, counts: Mapping[str, int]) -> Taxonomy:
        """Returns the taxonomy with the shares of the seed rows as weights; unchanged unless it is `seed`.

        Labels that only the seed data has are added with a plain style. Raises InputError if no row was counted.
        """
        if not self.from_seed:
            return self
        allowed = {label: n for label, n in counts.items() if n > 0 and (self.toxicity or label != TOXICITY)}
        total = sum(allowed.values())
        if total == 0:
            raise InputError(
                "curriculum.tasks: seed needs seed rows with a task, and no row has one; name their column in "
                "seed_data.task_column, or another taxonomy in curriculum.tasks"
            )
        labels = (*self.labels, *sorted(set(allowed) - set(self.labels)))
        return dataclasses.replace(
            self,
            labels=labels,
            weights={label: allowed.get(label, 0) / total for label in labels},
            styles={label: self.styles.get(label, PLAIN_STYLE) for label in labels if self.is_styled(label)},
            words={label: self.words.get(label, ()) for label in labels},
        )

    def check(self, label: str, where: str) -> None:
        """Raises InputError, which begins with `where` (a key or file), for a label that is not in the taxonomy."""
        if label not in self.labels:
            raise InputError(f"{where}: unknown task {label!r}; the tasks are {', '.join(self.labels)}")

    def label_by_words(self, text: str) -> str:
        """Returns the label whose words and phrases occur most in `text`: a heuristic of the `recorded` simulator.

        A phrase of n words counts n times. A tie goes to the label of higher weight, then to the first in the file. A
        text without any match is `Others`, or the first label of a taxonomy without `Others`.
        """
        # Spaces at both ends, so that a word is found whole and "art" does not match "start".
        tokens = f" {' '.join(units(text))} "
        scores = {
            label: sum(word.count(" ") + 1 for word in self.words[label] if f" {word} " in tokens)
            for label in self.labels
        }
        best = max(self.labels, key=lambda label: (scores[label], self.weights[label]))
        if scores[best] == 0:
            return OTHERS if OTHERS in self.labels else self.labels[0]
        return best


def load(curriculum: Curriculum) -> Taxonomy:
    """Returns the taxonomy that `curriculum.tasks` names: `tapir`, `seed`, or a YAML file of the form of tasks.yaml.

    `curriculum.weights` replaces the weights. Unless `curriculum.toxicity` is set, Toxicity gets weight 0 and its share
    goes to the other tasks in proportion. Raises InputError, which names the key or file and what to change.
    """
    shipped = curriculum.tasks in ("tapir", "seed")
    where = "curriculum.tasks" if shipped else f"curriculum.tasks {curriculum.tasks}"
    taxonomy = _parse(_shipped() if shipped else _read(Path(curriculum.tasks)), where)
    if curriculum.tasks == "seed":
        if curriculum.weights:
            raise InputError(
                "curriculum.weights: leave it out; curriculum.tasks: seed takes the weights from the seed data"
            )
        return dataclasses.replace(taxonomy, from_seed=True, toxicity=curriculum.toxicity)
    weights = dict(taxonomy.weights)
    if curriculum.weights:
        for label in curriculum.weights:
            taxonomy.check(label, "curriculum.weights")
        weights = {label: curriculum.weights.get(label, 0.0) for label in taxonomy.labels}
        where = "curriculum.weights"
    if abs(sum(weights.values()) - 1.0) > TOLERANCE:
        raise InputError(f"{where}: the weights sum to {sum(weights.values()):.4f}; they must sum to 1")
    if not curriculum.toxicity and TOXICITY in weights:
        if curriculum.weights.get(TOXICITY):
            raise InputError("curriculum.weights gives Toxicity a weight: set curriculum.toxicity: true as well")
        weights[TOXICITY] = 0.0
    total = sum(weights.values())
    if total == 0:
        raise InputError(f"{where}: Toxicity alone has a weight; set curriculum.toxicity: true or name other tasks")
    return dataclasses.replace(
        taxonomy,
        weights={label: weight / total for label, weight in weights.items()},
        toxicity=curriculum.toxicity,
    )


@functools.cache
def _shipped() -> Any:
    return _read(SHIPPED)


def _read(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", error)
        raise InputError(f"curriculum.tasks: cannot read {path} ({why}); give tapir, seed or a YAML file") from error
    return read_yaml(data, f"curriculum.tasks: {path}").value


def _parse(content: Any, where: str) -> Taxonomy:
    tasks = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(tasks, dict) or not tasks:
        raise InputError(f"{where}: write it as `tasks:` with a `weight`, `style` and `words` for each label")
    weights: dict[str, float] = {}
    styles: dict[str, str] = {}
    words: dict[str, tuple[str, ...]] = {}
    rubrics: dict[str, Rubric] = {}
    for label, entry in tasks.items():
        name = one_line(label)
        if not name or name in weights:
            raise InputError(
                f"{where}: the task {str(label)!r} has an empty name, or the name of another task (white space aside)"
            )
        if not isinstance(entry, dict):
            raise InputError(f"{where}: task {name} is not a mapping with `weight`, `style` and `words`")
        if unknown := sorted(set(map(str, entry)) - {"weight", "style", "words", CRITERIA}):
            raise InputError(f"{where}: task {name} has the unknown key {unknown[0]}")
        weight = entry.get("weight")
        # `weight: true` is a bool, which is an int in Python.
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise InputError(f"{where}: task {name} needs a `weight` of 0 or more (it is {weight!r})")
        listed = entry.get("words") or []
        if not isinstance(listed, list):
            raise InputError(f"{where}: `words` of task {name} must be a list")
        weights[name] = float(weight)
        styles[name] = str(entry.get("style") or PLAIN_STYLE)
        words[name] = tuple(" ".join(units(str(word))) for word in listed)
        if CRITERIA in entry:
            rubrics[name] = parse_rubric(entry[CRITERIA], f"{where}: task {name}")
    return Taxonomy(tuple(weights), weights, styles, words, Rubrics(_default_rubric(content, where), rubrics))


def _default_rubric(content: Mapping[str, Any], where: str) -> Rubric:
    """Returns the criteria at the top of a taxonomy file; without any, those of the shipped file."""
    return parse_rubric(content[CRITERIA] if CRITERIA in content else _shipped()[CRITERIA], where)
