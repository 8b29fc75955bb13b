"""MinHash signatures of texts (the `rensa` library) and their LSH bands.

    signature = signatures(["How many apples?", "How many pears?"])      # uint16, (2, PERMUTATIONS)
    similarity(signature[0], signature[1])                               # estimated Jaccard similarity
    band_hashes(signature, threshold=0.7)                                # similar texts have one in common

A text is the set of its lower-case word 3-grams; one of fewer words counts as one whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import xxhash
from rensa import RMinHash

PERMUTATIONS = 128
SEED = 20240522
SHINGLE_WORDS = 3
MIN_RECALL = 0.99
"""The least probability that two texts of exactly the threshold's similarity meet in some band."""

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The lower-case words of a text: runs of letters, digits and underscores."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> set[str]:
    """The word 3-grams of a text; one of fewer words is a single shingle."""
    words = words_of(text)
    if len(words) < SHINGLE_WORDS:
        return {" ".join(words) or text.strip()}
    return {" ".join(words[at : at + SHINGLE_WORDS]) for at in range(len(words) - SHINGLE_WORDS + 1)}


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures, uint16 of shape (texts, PERMUTATIONS): the low half of each 32-bit minimum.

    Half the bytes to store and compare; unequal minima meet in it once in 65,536, far below the estimate's error.
    """
    digests = RMinHash.digests_from_token_sets([sorted(shingles(text)) for text in texts], PERMUTATIONS, SEED)
    return np.asarray(digests, np.uint32).reshape(len(texts), PERMUTATIONS).astype(np.uint16)


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
