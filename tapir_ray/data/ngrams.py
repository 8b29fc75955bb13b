"""N-grams of conversations as hashes, and the boilerplate that many rows share.

    turns = turns_of(messages)                                # without system turns
    found = grams(turns[0].hashes, turns[0].weights, words=13)
    boilerplate = Boilerplate(common, words=13)               # hashes of the n-grams that too many rows share
    own = boilerplate.own(turns)                              # a mask of the units outside boilerplate, for each turn

An n-gram of n words is the shortest run of units that weighs at least n words (`words.py`): one of 13 words is about 20
Chinese characters. No n-gram crosses from one turn to the next.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tapir_ray.data.minhash import SHINGLE_WORDS, shingles_of
from tapir_ray.data.schemas import Message
from tapir_ray.data.words import WORD, hashes_of, units, weights_of

DEFAULT_WORDS = 13
"""Length of the n-grams that boilerplate is made of if `filter.ngram` is 0."""
LEAST_WORDS = 4
"""Fewest words of a shared beginning or end of a turn that is boilerplate, and of a row's own text amid boilerplate."""
EDGE_WORDS = 2
"""Fewest words of a row's own text before or after boilerplate."""

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
BEGIN, END = 0xD6E8FEB86659FD93, 0xA0761D6478BD642F
"""Salts of the hashes of n-grams at the start and the end of a turn, so that they never equal those in the middle."""


@dataclass(frozen=True)
class Turn:
    """A turn's text and its units, with their hashes (uint64) and weights (int64), both of shape (units,)."""

    text: str
    units: list[str]

    @classmethod
    def of(cls, text: str) -> Turn:
        return cls(text, units(text))

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        return hashes_of(self.units)

    @functools.cached_property
    def weights(self) -> np.ndarray:
        return weights_of(self.units)


@dataclass(frozen=True)
class Grams:
    """Runs of units of a turn: run i is `units[first[i]:last[i]]` and has the hash `hashes[i]`."""

    first: np.ndarray
    last: np.ndarray
    hashes: np.ndarray


def texts_of(messages: Sequence[Message]) -> list[str]:
    """The contents of the turns to compare: all but system turns, or these if the conversation has no other."""
    spoken = [message["content"] for message in messages if message["role"] != "system"]
    return spoken or [message["content"] for message in messages]


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """The turns to compare, as `texts_of` selects them."""
    return [Turn.of(text) for text in texts_of(messages)]


def grams(hashes: np.ndarray, weights: np.ndarray, words: int) -> Grams:
    """The n-grams of a turn: from each unit the shortest run that weighs at least `words` words; none for 0 words."""
    heavy = before(weights)
    last = np.searchsorted(heavy, heavy[:-1] + words * WORD)
    first = np.flatnonzero(last <= len(hashes)) if words else np.zeros(0, np.int64)
    return _runs(hashes, first, last[first], 0)


def shingles(turn: Turn) -> Grams:
    """The runs of SHINGLE_WORDS units of a turn. A turn of 1 or 2 units is a single run; an empty turn has none."""
    count = len(turn.units)
    first = np.arange(max(count - SHINGLE_WORDS + 1, min(count, 1)))
    return _runs(turn.hashes, first, np.minimum(first + SHINGLE_WORDS, count), 0)


def tokens(turns: Sequence[Turn], own: Sequence[np.ndarray] | None = None) -> set[str]:
    """The shingles of a conversation as texts, for its signature; only of the units selected by `own`, if given."""
    kept = [np.ones(len(turn.units), bool) for turn in turns] if own is None else own
    found = [
        unit for turn, mine in zip(turns, kept, strict=True) for unit, one in zip(turn.units, mine, strict=True) if one
    ]
    return shingles_of(found) or {"\n".join(turn.text for turn in turns).strip()}


def edges(turn: Turn, words: int) -> tuple[Grams, Grams]:
    """(beginnings, ends) of a turn, of at least LEAST_WORDS and fewer than `words` words.

    Longer ones are found as n-grams.
    """
    count, heavy = len(turn.units), before(turn.weights)
    ends = np.arange(count + 1)
    begun = ends[(heavy >= LEAST_WORDS * WORD) & (heavy < words * WORD)]
    rest = heavy[-1] - heavy
    left = ends[(rest >= LEAST_WORDS * WORD) & (rest < words * WORD)]
    beginnings = _runs(turn.hashes, np.zeros(len(begun), np.int64), begun, BEGIN)
    return beginnings, _runs(turn.hashes, left, np.full(len(left), count), END)


def countable(turns: Sequence[Turn], words: int) -> np.ndarray:
    """The distinct hashes of a row's n-grams and edges, sorted: those to count for finding boilerplate."""
    found = [np.zeros(0, np.uint64)]
    for turn in turns:
        whole = grams(turn.hashes, turn.weights, words)
        found += [whole.hashes, *(edge.hashes for edge in edges(turn, words))]
    return np.unique(np.concatenate(found))


def before(values: np.ndarray) -> np.ndarray:
    """Exclusive prefix sums, with the total at the end: [2, 3] gives [0, 2, 5]."""
    # Not by `np.r_`, which takes longer than the other work on a text's n-grams together.
    summed = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=summed[1:])
    return summed


def among(wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A mask of the hashes that are in `known`, which must be sorted."""
    if not len(known):
        return np.zeros(len(wanted), bool)
    # By binary search: `np.isin` would sort all known hashes again for every text.
    at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    found: np.ndarray = known[at] == wanted
    return found


@dataclass(frozen=True)
class Boilerplate:
    """Sorted hashes of the n-grams of `words` words that too many rows share, uint64 of shape (n-grams,)."""

    common: np.ndarray
    words: int

    def own(self, turns: Sequence[Turn]) -> list[np.ndarray] | None:
        """For each turn a mask of the units in no common n-gram; None if the row is to be compared as a whole.

        That is the case if all units are outside boilerplate, or if those outside weigh less than LEAST_WORDS words
        (EDGE_WORDS, if they begin or end a turn): a text repeated by many rows except for one word is not boilerplate
        around a different question.
        """
        if not len(self.common):
            return None
        own = [self._own(turn) for turn in turns]
        if all(units.all() for units in own):
            return None
        words = sum(int(turn.weights[units].sum()) for turn, units in zip(turns, own, strict=True))
        at_an_edge = any(len(units) and (units[0] or units[-1]) for units in own)
        return own if words >= (EDGE_WORDS if at_an_edge else LEAST_WORDS) * WORD else None

    def _own(self, turn: Turn) -> np.ndarray:
        # Difference array: the running sum over the starts and ends of common runs is 0 at the units outside them.
        begins = np.zeros(len(turn.units) + 1, np.int64)
        for found in (grams(turn.hashes, turn.weights, self.words), *edges(turn, self.words)):
            common = among(found.hashes, self.common)
            np.add.at(begins, found.first[common], 1)
            np.add.at(begins, found.last[common], -1)
        own: np.ndarray = np.cumsum(begins[:-1]) == 0
        return own


NO_BOILERPLATE = Boilerplate(np.zeros(0, np.uint64), DEFAULT_WORDS)


def boilerplate_of(conversations: Iterable[Sequence[Message]], most: int | None, words: int) -> Boilerplate:
    """The n-grams that more than `most` conversations have; NO_BOILERPLATE if `most` is None.

    Holds all hashes in memory, so it is for small sets only.
    """
    if most is None:
        return NO_BOILERPLATE
    found = [np.zeros(0, np.uint64), *(countable(turns_of(messages), words) for messages in conversations)]
    hashes, rows = np.unique(np.concatenate(found), return_counts=True)
    return Boilerplate(hashes[rows > most], words)


def _runs(hashes: np.ndarray, first: np.ndarray, last: np.ndarray, salt: int) -> Grams:
    """The runs with their hashes.

    A polynomial hash modulo 2⁶⁴: the sum of h_i · BASE^i over the units of the run, i counted from its first unit, then
    mixed. From prefix sums it takes constant time for each run, whatever its length.
    """
    power, inverse = _powers(1 << max(0, len(hashes)).bit_length())
    summed = before(hashes * power[: len(hashes)])
    value = (summed[last] - summed[first]) * inverse[first]
    value += (last - first).astype(np.uint64) * np.uint64(END) + np.uint64(salt)
    # The finalizer of SplitMix64, because the low bits of the sum depend only on the low bits of the units' hashes.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return Grams(first, last, value ^ (value >> np.uint64(31)))


@functools.lru_cache(maxsize=16)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(BASE^n, BASE^−n) modulo 2⁶⁴ for n < count, uint64."""
    factors = [np.full(count, base, np.uint64) for base in (_BASE, _INVERSE)]
    for one in factors:
        one[:1] = 1
    power, inverse = (np.cumprod(one, dtype=np.uint64) for one in factors)
    return power, inverse
