"""Overlap of an answer with a reference, by which the simulated judge grades what it does not know better."""

from __future__ import annotations

from rapidfuzz.distance import LCSseq

from tapir_ray.data.words import units


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F1 over units of `words.py` (Lin 2004): 2 · LCS / (units of answer + units of reference), in [0, 1]."""
    if answer.strip() == reference.strip():
        return 1.0
    given, wanted = units(answer), units(reference)
    if not given or not wanted:
        return 0.0
    return 2 * LCSseq.similarity(given, wanted) / (len(given) + len(wanted))


def coverage(answer: str, question: str) -> float:
    """Share of the question's distinct units that the answer uses, in [0, 1]; 0 for an answer that repeats it alone."""
    asked = {unit.lower() for unit in units(question)}
    if not asked or answer.strip() == question.strip():
        return 0.0
    return len(asked & {unit.lower() for unit in units(answer)}) / len(asked)
