"""What in a run follows from what: its tables and models, their inputs, and what a key of the config changes directly.

stale = following({"rounds/01/scored"}, config)          # what must be made again
stale = following(changed_by(["judge.mode"], config), config)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tapir_ray.config import Config
from tapir_ray.run.layout import checkpoint, round_dir

READ, SPLIT, INGESTED = "seed/read", "seed/split", "seed/ingested"
COMMON, CONTAMINATION = "seed/common_ngrams", "seed/contamination"
LABELS, CLASSIFIER, INSTRUCTIONS, BANDS = "seed/labels", "classifier", "seed/instructions", "seed/bands"
ANSWERS = "answers"
"""Stands for INSTRUCTIONS where the teacher answers the seed data."""
BASE, EVALUATION = "checkpoints/base", "evaluation/holdout"
HELD, HELD_PACKED = "seed/holdout", "seed/holdout_packed"

CHANGES: dict[str, tuple[str, ...]] = {
    "random_seed": (READ,),
    "seed_data": (READ,),
    "simulator": (READ,),
    "holdout": (SPLIT,),
    "holdout.select_share": (),
    "prompts": (LABELS, INSTRUCTIONS, "scored", "expanded", "generated"),
    "teacher": (LABELS, INSTRUCTIONS, "expanded", "generated"),
    "classify": (LABELS, INSTRUCTIONS),
    "curriculum": ("expanded",),
    "curriculum.tasks": (LABELS, INSTRUCTIONS),
    "curriculum.weights": ("candidates",),
    "curriculum.toxicity": (LABELS, INSTRUCTIONS, "candidates"),
    "curriculum.rounds": (EVALUATION,),
    "curriculum.difficulty.measure": ("scored",),
    "student": (BASE,),
    "student.sampling": ("scored", EVALUATION),
    "student.engine": ("scored", EVALUATION),
    "student.endpoint": ("scored", EVALUATION),
    "judge": (ANSWERS, "scored", "generated", EVALUATION),
    "score": ("candidates",),
    "expand": ("expanded",),
    "expand.annotation": ("generated",),
    "filter": ("checked",),
    "filter.other_task": ("expanded",),
    "filter.evaluation_sets": (INGESTED,),
    "filter.ngram": (COMMON,),
    "filter.common_ngram_rows": (COMMON,),
    "filter.near_duplicate": (INGESTED,),
    "respond": (ANSWERS, "generated"),
    "rewrite": (ANSWERS, "generated"),
    "mix": ("expanded",),
    "train": (HELD_PACKED, "seed/packed", "packed"),
    "train.initial_sft": ("seed/training", checkpoint(0)),
    "train.initial_epochs": ("seed/packed",),
    "train.epochs": ("packed",),
    "train.data": ("packed",),
    "train.init_from": ("packed",),
    "train.round_learning_rate": ("packed",),
}
"""By the longest key that a changed key begins with: the outputs it enters directly; a bare name is of every round."""


def inputs(config: Config) -> dict[str, list[str]]:
    """Every output of a run by its folder, in the order in which they are made, with the outputs it is made from."""
    keep = config.seed_data.responses == "keep"
    found: dict[str, list[str]] = {
        READ: [],
        SPLIT: [READ],
        COMMON: [SPLIT],
        INGESTED: [SPLIT, COMMON],
        CONTAMINATION: [INGESTED],
        LABELS: [INGESTED],
        CLASSIFIER: [LABELS],
        INSTRUCTIONS: [INGESTED, CLASSIFIER] if config.classify.by == "deberta" else [INGESTED],
        BANDS: [INSTRUCTIONS, COMMON],
        BASE: [INGESTED],
        HELD: [INGESTED if keep else INSTRUCTIONS],
        HELD_PACKED: [HELD, BASE],
        "seed/training": [INGESTED if keep else INSTRUCTIONS],
        "seed/packed": ["seed/training", BASE],
        checkpoint(0): ["seed/packed"],
    }
    generated: list[str] = []
    for number in range(1, config.curriculum.rounds + 1):
        folder = round_dir(number)
        found[f"{folder}/candidates"] = [INSTRUCTIONS, *generated]
        found[f"{folder}/scored"] = [f"{folder}/candidates", checkpoint(number - 1)]
        found[f"{folder}/expanded"] = [f"{folder}/scored", CLASSIFIER]
        found[f"{folder}/bands"] = [f"{folder}/expanded", BANDS]
        found[f"{folder}/checked"] = [f"{folder}/expanded", f"{folder}/bands"]
        found[f"{folder}/contamination"] = [f"{folder}/checked"]
        found[f"{folder}/generated"] = [f"{folder}/checked"]
        found[f"{folder}/pool"] = [f"{folder}/scored", f"{folder}/generated"]
        found[f"{folder}/training"] = [f"{folder}/pool"]
        found[f"{folder}/packed"] = [f"{folder}/training", checkpoint(number - 1)]
        found[checkpoint(number)] = [f"{folder}/packed"]
        generated.append(f"{folder}/generated")
    found[EVALUATION] = [INSTRUCTIONS, checkpoint(config.curriculum.rounds)]
    return found


def following(changed: Collection[str], config: Config) -> list[str]:
    """The changed outputs and all that is made from them, in the order in which they are made."""
    stale: list[str] = []
    for output, made_from in inputs(config).items():
        if output in changed or any(other in stale for other in made_from):
            stale.append(output)
    return stale


def changed_by(keys: Iterable[str], config: Config) -> set[str]:
    """The outputs that the values of these config keys (`a.b.c`) enter directly; all of them for an unknown key."""
    changed: set[str] = set()
    for key in keys:
        parts = key.split(".")
        known = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        for name in next((CHANGES[prefix] for prefix in known if prefix in CHANGES), (READ,)):
            if name == ANSWERS and config.seed_data.responses != "keep":
                name = INSTRUCTIONS
            changed |= {output for output in inputs(config) if name in (output, output.removeprefix("rounds/")[3:])}
    return changed
