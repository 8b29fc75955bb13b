"""The task taxonomy of a run: labels, mixture weights, answering styles and the words of the heuristic labeller.

taxonomy = load(config.curriculum)
taxonomy.effective_weights({"Math", "Grammar"})      # {"Grammar": 0.092, "Math": 0.908}
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_ray.config import Curriculum
from tapir_ray.config.yaml_files import read_yaml
from tapir_ray.data.values import one_line
from tapir_ray.data.words import units
from tapir_ray.errors import InputError, StageError

SHIPPED = Path(__file__).parent / "tasks.yaml"
OTHERS, TOXICITY = "Others", "Toxicity"
PLAIN_STYLE = "Answer clearly, completely and in a fitting order."
"""The style of a label that a user's seed data brings and no taxonomy describes."""
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Taxonomy:
    """Task labels in the file's order; `weights` sum to 1 and hold 0 for a task that is never to be trained on."""

    labels: tuple[str, ...]
    weights: Mapping[str, float]
    styles: Mapping[str, str]
    words: Mapping[str, tuple[str, ...]]
    from_seed: bool = False
    """The weights are placeholders until `with_seed_counts`."""
    toxicity: bool = True

    def effective_weights(self, present: Collection[str]) -> dict[str, float]:
        """The weights over the tasks that are present, by name: those of absent tasks are shared out in proportion.

        Sums to 1; tasks of weight 0 are left out. Raises StageError where no task present has a weight.
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
        """Tasks that have a weight and no row."""
        return [label for label in self.labels if self.weights[label] > 0.0 and label not in present]

    def with_seed_counts(self, counts: Mapping[str, int]) -> Taxonomy:
        """The taxonomy with the seed data's own shares as weights; a taxonomy that is not `seed` comes back unchanged.

        Labels that only the seed data has are added, with a plain style. Raises InputError where nothing was counted.
        """
        if not self.from_seed:
            return self
        allowed = {label: n for label, n in counts.items() if n > 0 and (self.toxicity or label != TOXICITY)}
        total = sum(allowed.values())
        if total == 0:
            raise InputError("curriculum.tasks: seed needs seed rows with a task; there are none")
        labels = (*self.labels, *sorted(set(allowed) - set(self.labels)))
        return dataclasses.replace(
            self,
            labels=labels,
            weights={label: allowed.get(label, 0) / total for label in labels},
            styles={label: self.styles.get(label, PLAIN_STYLE) for label in labels},
            words={label: self.words.get(label, ()) for label in labels},
        )

    def check(self, label: str, where: str) -> None:
        """Raises InputError, naming `where` (a key or file), for a label that is not in the taxonomy."""
        if label not in self.labels:
            raise InputError(f"{where}: unknown task {label!r}; the tasks are {', '.join(self.labels)}")

    def label_by_words(self, text: str) -> str:
        """The label most of whose words and phrases occur in `text`: a heuristic for the `recorded` simulator only.

        A phrase counts as many times as it has words; a tie goes to the label of higher weight, then to the one named
        first. A text that matches nothing is `Others`, or the first label of a taxonomy without it.
        """
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
    """The taxonomy that `curriculum.tasks` names (`tapir`, `seed`, or a YAML file of the shape of tasks.yaml).

    `curriculum.weights` replaces the weights; Toxicity gets none unless `curriculum.toxicity`, and its share goes to
    the other tasks in proportion. Raises InputError that names the key or the file, and what to change.
    """
    shipped = curriculum.tasks in ("tapir", "seed")
    where = "curriculum.tasks" if shipped else f"curriculum.tasks {curriculum.tasks}"
    taxonomy = _parse(_shipped() if shipped else _read(Path(curriculum.tasks)), where)
    if curriculum.tasks == "seed":
        if curriculum.weights:
            raise InputError("curriculum.weights: leave it out with curriculum.tasks: seed, which counts them")
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
    for label, entry in tasks.items():
        name = one_line(label)
        if not name or name in weights:
            raise InputError(f"{where}: the task {str(label)!r} has no name, or that of another task, on one line")
        if not isinstance(entry, dict):
            raise InputError(f"{where}: task {name} is not a mapping with `weight`, `style` and `words`")
        if unknown := sorted(set(map(str, entry)) - {"weight", "style", "words"}):
            raise InputError(f"{where}: task {name} has the unknown key {unknown[0]}")
        weight = entry.get("weight")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise InputError(f"{where}: task {name} needs a `weight` of 0 or more (it is {weight!r})")
        listed = entry.get("words") or []
        if not isinstance(listed, list):
            raise InputError(f"{where}: `words` of task {name} must be a list")
        weights[name] = float(weight)
        styles[name] = str(entry.get("style") or PLAIN_STYLE)
        words[name] = tuple(" ".join(units(str(word))) for word in listed)
    return Taxonomy(labels=tuple(weights), weights=weights, styles=styles, words=words)
