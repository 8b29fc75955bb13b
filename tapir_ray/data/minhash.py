"""MinHash signatures of texts (by the `rensa` library) and their LSH bands.

    signature = signatures(["How many apples?", "How many pears?"])      # uint16, (2, PERMUTATIONS)
    similarity(signature[0], signature[1])                               # estimated Jaccard similarity
    band_hashes(signature, threshold=0.7)                                # similar texts share at least one hash

A text is represented by the set of its 3-grams of units (`words.py`: words, or characters in scripts without spaces). A
text of fewer than 3 units is a single shingle.
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
"""Lowest probability that two texts whose similarity equals the threshold share a band."""


def shingles(text: str) -> set[str]:
    """The 3-grams of a text's units; a text of fewer than 3 units is a single shingle."""
    return shingles_of(units(text)) or {text.strip()}


def shingles_of(found: Sequence[str]) -> set[str]:
    """The 3-grams of some units; 1 or 2 units are a single shingle, none give an empty set."""
    if len(found) < SHINGLE_WORDS:
        return {" ".join(found)} if found else set()
    return {" ".join(found[at : at + SHINGLE_WORDS]) for at in range(len(found) - SHINGLE_WORDS + 1)}


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures, uint16 of shape (texts, PERMUTATIONS): the low half of each 32-bit minimum.

    Half of the bits halves storage and comparison. Unequal minima agree in their low half once in 65,536, far below the
    error of the estimate.
    """
    return signatures_of([shingles(text) for text in texts])


def signatures_of(sets: Sequence[Collection[str]]) -> np.ndarray:
    """The signatures of sets of shingles, uint16 of shape (sets, PERMUTATIONS)."""
    digests = RMinHash.digests_from_token_sets([sorted(one) for one in sets], PERMUTATIONS, SEED)
    return np.asarray(digests, np.uint32).reshape(len(sets), PERMUTATIONS).astype(np.uint16)


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity along the last axis: the share of equal entries."""
    return (one == other).mean(axis=-1)


def rows_per_band(threshold: float) -> int:
    """The most signature entries a band may have to keep MIN_RECALL at `threshold`; larger bands give fewer candidates.

    With b bands of r entries, texts of Jaccard similarity s share a band with probability 1 − (1 − s^r)^b.
    """
    fitting = [
        size for size in range(1, PERMUTATIONS + 1) if 1 - (1 - threshold**size) ** (PERMUTATIONS // size) >= MIN_RECALL
    ]
    return max(fitting, default=1)


def band_hashes(signature: np.ndarray, threshold: float) -> np.ndarray:
    """A 64-bit hash of each band, uint64 of shape (texts, bands).

    Two texts have the same hash in a band if their entries there are equal; other bands have other hashes.
    """
    size = rows_per_band(threshold)
    bands = PERMUTATIONS // size
    parts = np.ascontiguousarray(signature[:, : bands * size]).reshape(len(signature), bands, size)
    hashes = [[xxhash.xxh3_64_intdigest(part.tobytes(), seed=band) for band, part in enumerate(row)] for row in parts]
    return np.array(hashes, np.uint64).reshape(len(signature), bands)
