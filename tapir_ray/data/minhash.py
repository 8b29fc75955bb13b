"""MinHash signatures of texts (the `rensa` library) and their LSH bands.

    signature = signatures(["How many apples?", "How many pears?"])      # uint16, (2, PERMUTATIONS)
    similarity(signature[0], signature[1])                               # estimated Jaccard similarity
    band_hashes(signature, threshold=0.7)                                # similar texts have one in common

A text is the set of its 3-grams of units (`words.py`: words, or characters in scripts without spaces); one of fewer
units counts as one whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import xxhash
from rensa import RMinHash

from tapir_ray.data.words import units

PERMUTATIONS = 128
SEED = 20240522
SHINGLE_WORDS = 3
MIN_RECALL = 0.99
"""The least probability that two texts of exactly the threshold's similarity meet in some band."""


def shingles(text: str) -> set[str]:
    """The 3-grams of a text's units; a text of fewer is a single shingle."""
    return shingles_of(units(text)) or {text.strip()}


def shingles_of(found: Sequence[str]) -> set[str]:
    """The 3-grams of some units, or the single one that fewer of them are; empty without any."""
    if len(found) < SHINGLE_WORDS:
        return {" ".join(found)} if found else set()
    return {" ".join(found[at : at + SHINGLE_WORDS]) for at in range(len(found) - SHINGLE_WORDS + 1)}


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures, uint16 of shape (texts, PERMUTATIONS): the low half of each 32-bit minimum.

    Half the bytes to store and compare; unequal minima meet in it once in 65,536, far below the estimate's error.
    """
    return signatures_of([shingles(text) for text in texts])


def signatures_of(sets: Sequence[Collection[str]]) -> np.ndarray:
    """The signatures of sets of shingles."""
    digests = RMinHash.digests_from_token_sets([sorted(one) for one in sets], PERMUTATIONS, SEED)
    return np.asarray(digests, np.uint32).reshape(len(sets), PERMUTATIONS).astype(np.uint16)


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity along the last axis: the share of equal entries."""
    return (one == other).mean(axis=-1)


def rows_per_band(threshold: float) -> int:
    """The most signature entries a band may have (fewest false candidates) at MIN_RECALL for `threshold`."""
    fitting = [
        size for size in range(1, PERMUTATIONS + 1) if 1 - (1 - threshold**size) ** (PERMUTATIONS // size) >= MIN_RECALL
    ]
    return max(fitting, default=1)


def band_hashes(signature: np.ndarray, threshold: float) -> np.ndarray:
    """A 64-bit hash of each band, uint64 of shape (texts, bands); equal for equal entries of the same band."""
    size = rows_per_band(threshold)
    bands = PERMUTATIONS // size
    parts = np.ascontiguousarray(signature[:, : bands * size]).reshape(len(signature), bands, size)
    hashes = [[xxhash.xxh3_64_intdigest(part.tobytes(), seed=band) for band, part in enumerate(row)] for row in parts]
    return np.array(hashes, np.uint64).reshape(len(signature), bands)
