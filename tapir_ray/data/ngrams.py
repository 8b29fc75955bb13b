"""N-grams of conversations as hashes, and the boilerplate that many rows share.

    turns = turns_of(messages)                                # without the system's
    found = grams(turns[0].hashes, turns[0].weights, words=13)
    boilerplate = Boilerplate(common, words=13)               # hashes of the n-grams that too many rows share
    own = boilerplate.own(turns)                              # which units of each turn are the row's own

An n-gram is the shortest run of units that weighs as many words (`words.py`), so one of 13 words is about 20 Chinese
characters. Turns begin and end for themselves: no n-gram goes over from one to the next.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tapir_ray.data.minhash import shingles_of
from tapir_ray.data.schemas import Message
from tapir_ray.data.words import WORD, hashes_of, units, weights_of

DEFAULT_WORDS = 13
"""Length of the n-grams by which boilerplate is found, where `filter.ngram` is 0."""
LEAST_WORDS = 4
"""A shared beginning or end of a turn is boilerplate from so many words on; fewer words inside of it are no text of
their own."""
EDGE_WORDS = 2
"""Words that are a text of their own before or after boilerplate."""
SHINGLE = 3
"""Units of a shingle."""

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
BEGIN, END = 0xD6E8FEB86659FD93, 0xA0761D6478BD642F
"""Set apart the n-grams that are the first or the last words of a turn."""


@dataclass(frozen=True)
class Turn:
    """A turn's text and its units, with their hashes and weights."""

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
    """Runs of units of a turn, from `first` to before `last`, each with its hash."""

    first: np.ndarray
    last: np.ndarray
    hashes: np.ndarray


def texts_of(messages: Sequence[Message]) -> list[str]:
    """The contents of the turns that are compared: all but the system's, unless there is no other."""
    spoken = [message["content"] for message in messages if message["role"] != "system"]
    return spoken or [message["content"] for message in messages]


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """The turns that are compared."""
    return [Turn.of(text) for text in texts_of(messages)]


def grams(hashes: np.ndarray, weights: np.ndarray, words: int) -> Grams:
    """From each unit on the shortest run that weighs at least `words` words; none for 0 words."""
    heavy = before(weights)
    last = np.searchsorted(heavy, heavy[:-1] + words * WORD)
    first = np.flatnonzero(last <= len(hashes)) if words else np.zeros(0, np.int64)
    return _runs(hashes, first, last[first], 0)


def shingles(turn: Turn) -> Grams:
    """The runs of SHINGLE units of a turn; one of fewer units is a single run, one of none has none."""
    count = len(turn.units)
    first = np.arange(max(count - SHINGLE + 1, min(count, 1)))
    return _runs(turn.hashes, first, np.minimum(first + SHINGLE, count), 0)


def tokens(turns: Sequence[Turn], own: Sequence[np.ndarray] | None = None) -> set[str]:
    """The shingles of a conversation as texts, for its signature; with `own` those of its own units alone."""
    kept = [np.ones(len(turn.units), bool) for turn in turns] if own is None else own
    found = [
        unit for turn, mine in zip(turns, kept, strict=True) for unit, one in zip(turn.units, mine, strict=True) if one
    ]
    return shingles_of(found) or {"\n".join(turn.text for turn in turns).strip()}


def ngram_hashes(text: str, words: int) -> list[int]:
    """Hashes of the n-grams of a text; none if it has fewer words, or for 0 words."""
    turn = Turn.of(text)
    found: list[int] = grams(turn.hashes, turn.weights, words).hashes.tolist()
    return found


def edges(turn: Turn, words: int) -> tuple[Grams, Grams]:
    """The beginnings and the ends of a turn that have at least LEAST_WORDS and fewer than `words` words."""
    count, heavy = len(turn.units), before(turn.weights)
    ends = np.arange(count + 1)
    begun = ends[(heavy >= LEAST_WORDS * WORD) & (heavy < words * WORD)]
    rest = heavy[-1] - heavy
    left = ends[(rest >= LEAST_WORDS * WORD) & (rest < words * WORD)]
    beginnings = _runs(turn.hashes, np.zeros(len(begun), np.int64), begun, BEGIN)
    return beginnings, _runs(turn.hashes, left, np.full(len(left), count), END)


def countable(turns: Sequence[Turn], words: int) -> np.ndarray:
    """The distinct hashes by which a row's boilerplate can be found, sorted."""
    found = [np.zeros(0, np.uint64)]
    for turn in turns:
        whole = grams(turn.hashes, turn.weights, words)
        found += [whole.hashes, *(edge.hashes for edge in edges(turn, words))]
    return np.unique(np.concatenate(found))


def before(values: np.ndarray) -> np.ndarray:
    """The sum of all values before each place, and of all of them at the end."""
    # Without `np.r_`, which takes longer than the rest of a text's n-grams.
    summed = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=summed[1:])
    return summed


def among(wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the hashes are among the `known` ones, which are sorted."""
    if not len(known):
        return np.zeros(len(wanted), bool)
    # By search, as they lie sorted: `np.isin` would sort all of them again for every text.
    at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    found: np.ndarray = known[at] == wanted
    return found


@dataclass(frozen=True)
class Boilerplate:
    """The n-grams of `words` words that too many rows share, as sorted hashes."""

    common: np.ndarray
    words: int

    def own(self, turns: Sequence[Turn]) -> list[np.ndarray] | None:
        """For each turn, which of its units are in no common n-gram; None if that is all of them, or hardly any.

        Hardly any are fewer than LEAST_WORDS, or than EDGE_WORDS if they begin or end a turn: a text that many rows
        repeat but for a word is no boilerplate with a question of its own.
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
        begins = np.zeros(len(turn.units) + 1, np.int64)
        for found in (grams(turn.hashes, turn.weights, self.words), *edges(turn, self.words)):
            common = among(found.hashes, self.common)
            np.add.at(begins, found.first[common], 1)
            np.add.at(begins, found.last[common], -1)
        own: np.ndarray = np.cumsum(begins[:-1]) == 0
        return own


NO_BOILERPLATE = Boilerplate(np.zeros(0, np.uint64), DEFAULT_WORDS)


def boilerplate_of(conversations: Iterable[Sequence[Message]], most: int | None, words: int) -> Boilerplate:
    """The n-grams that more than `most` of a few conversations have; none for None."""
    if most is None:
        return NO_BOILERPLATE
    found = [np.zeros(0, np.uint64), *(countable(turns_of(messages), words) for messages in conversations)]
    hashes, rows = np.unique(np.concatenate(found), return_counts=True)
    return Boilerplate(hashes[rows > most], words)


def _runs(hashes: np.ndarray, first: np.ndarray, last: np.ndarray, salt: int) -> Grams:
    """The runs with their hashes: Σ hash · BASEᵖˡᵃᶜᵉ from the run's first place on, modulo 2⁶⁴, and mixed."""
    power, inverse = _powers(1 << max(0, len(hashes)).bit_length())
    summed = before(hashes * power[: len(hashes)])
    value = (summed[last] - summed[first]) * inverse[first]
    value += (last - first).astype(np.uint64) * np.uint64(END) + np.uint64(salt)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return Grams(first, last, value ^ (value >> np.uint64(31)))


@functools.lru_cache(maxsize=16)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """BASEⁿ and its inverses for n < count."""
    factors = [np.full(count, base, np.uint64) for base in (_BASE, _INVERSE)]
    for one in factors:
        one[:1] = 1
    power, inverse = (np.cumprod(one, dtype=np.uint64) for one in factors)
    return power, inverse
