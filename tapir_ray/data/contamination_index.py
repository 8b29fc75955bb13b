"""Index of texts that must not be trained on, as hashes, and the search for them in conversations.

    index = ContaminationIndex.build(conversations, ngram=13, threshold=0.7, boilerplate=boilerplate)
    index.find([messages])      # [Contamination(kind="ngram", item=3, shared="name the four largest …")], or [None]

System turns are not compared. Boilerplate (n-grams that many training rows share) does not count: an item with
boilerplate is found by the rest of its text. A row with the same boilerplate and another question is not contaminated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tapir_ray.data.minhash import band_hashes, signatures_of, similarity
from tapir_ray.data.ngrams import NO_BOILERPLATE, Boilerplate, Turn, among, before, grams, shingles, tokens, turns_of
from tapir_ray.data.schemas import Message, instruction_id
from tapir_ray.data.words import WORD, joined

EXACT, NEAR, NGRAM = "exact", "near_duplicate", "ngram"
OWN_SHARE = 0.6
"""Share of an item's own shingles that a near-duplicate must have.

"Own" shingles are those with text outside boilerplate. A nine-word question with one word changed has 0.67.
"""
LEAST_FUZZY = 8
"""Fewest words of an item that is also found inside another text with some words changed."""
SHOWN_CHARS = 300
"""Longest quotation of a shared text."""


@dataclass(frozen=True)
class Contamination:
    """A match of a conversation: its kind (EXACT, NEAR or NGRAM), the index of the item, the longest shared text."""

    kind: str
    item: int
    shared: str


@dataclass(frozen=True)
class Postings:
    """Inverted index: sorted hashes, and the item of each; both of shape (entries,)."""

    hashes: np.ndarray
    items: np.ndarray

    @classmethod
    def of(cls, found: Sequence[np.ndarray]) -> Postings:
        """The postings of items whose hashes are `found`, one array for each item."""
        hashes = np.concatenate([np.zeros(0, np.uint64), *found])
        items = np.repeat(np.arange(len(found)), [len(one) for one in found])
        order = np.lexsort((items, hashes))
        return cls(hashes[order], items[order])

    def items_of(self, wanted: np.ndarray) -> np.ndarray:
        """The items of all wanted hashes, concatenated: an item occurs once for each hash that it has."""
        wanted = wanted[among(wanted, self.hashes)]
        if not len(wanted):
            return np.zeros(0, np.int64)
        left, right = np.searchsorted(self.hashes, wanted, "left"), np.searchsorted(self.hashes, wanted, "right")
        spans = [self.items[a:b] for a, b in zip(left, right, strict=True)]
        return np.concatenate(spans)

    def of_item(self, item: int) -> np.ndarray:
        found: np.ndarray = self.hashes[self.items == item]
        return found


@dataclass(frozen=True)
class ContaminationIndex:
    """Hashes of the texts that must not be trained on; small enough to send to every worker.

    Arrays with one entry for each item have shape (items,), `signatures` has shape (items, PERMUTATIONS).
    """

    ids: Collection[str]
    item_ids: tuple[str, ...]
    sources: tuple[str, ...]
    ngrams: Postings
    """Word n-grams outside boilerplate."""
    bands: Postings
    shingles: Postings
    """Shingles outside boilerplate."""
    own_shingles: np.ndarray
    """Number of shingles outside boilerplate, by item."""
    own_words: np.ndarray
    has_boilerplate: np.ndarray
    signatures: np.ndarray
    ngram: int
    threshold: float

    @classmethod
    def build(
        cls,
        conversations: Iterable[Sequence[Message]],
        ngram: int,
        threshold: float,
        boilerplate: Boilerplate = NO_BOILERPLATE,
        sources: Sequence[str] = (),
    ) -> ContaminationIndex:
        """Builds the index of conversation contexts, one item each; `ngram` 0 leaves n-grams out.

        `sources` name the file of each item for reports.
        """
        item_ids: list[str] = []
        spoken: list[list[Turn]] = []
        for messages in conversations:
            item_ids.append(instruction_id(messages))
            spoken.append(turns_of(messages))
        own = [boilerplate.own(turns) for turns in spoken]
        kept = [
            [Owned(turn, np.ones(len(turn.units), bool)) for turn in turns]
            if owned is None
            else [Owned(turn, units) for turn, units in zip(turns, owned, strict=True)]
            for turns, owned in zip(spoken, own, strict=True)
        ]
        signature = signatures_of([tokens(turns) for turns in spoken])
        shingled = [_joined([turn.shingles() for turn in turns]) for turns in kept]
        return cls(
            ids=frozenset(item_ids),
            item_ids=tuple(item_ids),
            sources=tuple(sources) or ("",) * len(item_ids),
            ngrams=Postings.of([_joined([turn.ngrams(ngram) for turn in turns]) for turns in kept]),
            bands=Postings.of(list(band_hashes(signature, threshold))),
            shingles=Postings.of(shingled),
            own_shingles=np.array([len(found) for found in shingled], np.int64),
            own_words=np.array([sum(turn.words() for turn in turns) for turns in kept], np.int64),
            has_boilerplate=np.array([owned is not None for owned in own], bool),
            signatures=signature,
            ngram=ngram,
            threshold=threshold,
        )

    def contaminated(self, conversations: Sequence[Sequence[Message]]) -> list[str | None]:
        """The kind of contamination of each conversation: `exact`, `near_duplicate`, `ngram`, or None."""
        return [found.kind if found else None for found in self.find(conversations)]

    def find(self, conversations: Sequence[Sequence[Message]]) -> list[Contamination | None]:
        """The contamination of each conversation, or None.

        Kinds are tried in the order exact, near-duplicate, n-gram; within a kind the most similar item counts.
        """
        spoken = [turns_of(messages) for messages in conversations]
        signature = signatures_of([tokens(turns) for turns in spoken])
        hashes = band_hashes(signature, self.threshold)
        return [
            self._exact(messages, turns) or self._near(turns, signature[at], hashes[at]) or self._ngram(turns)
            for at, (messages, turns) in enumerate(zip(conversations, spoken, strict=True))
        ]

    def _exact(self, messages: Sequence[Message], turns: Sequence[Turn]) -> Contamination | None:
        row_id = instruction_id(messages)
        if row_id not in self.ids:
            return None
        shared = " / ".join(joined(turn.units) for turn in turns)
        return Contamination(EXACT, self.item_ids.index(row_id), shared[:SHOWN_CHARS])

    def _near(self, turns: Sequence[Turn], signature: np.ndarray, bands: np.ndarray) -> Contamination | None:
        # Bands only give candidates; the signatures decide.
        members = np.unique(self.bands.items_of(bands))
        if not len(members):
            return None
        alike = similarity(self.signatures[members], signature[None])
        alike, members = alike[alike >= self.threshold], members[alike >= self.threshold]
        # Shared boilerplate alone can reach the threshold, so the item's own text must be similar as well.
        if self.has_boilerplate[members].any():
            own = self._own_shares(turns)[members] >= OWN_SHARE
            kept = ~self.has_boilerplate[members] | own
            alike, members = alike[kept], members[kept]
        if not len(members):
            return None
        item = int(members[np.argmax(alike)])
        return Contamination(NEAR, item, self._shared(turns, item))

    def _ngram(self, turns: Sequence[Turn]) -> Contamination | None:
        if not self.ngram:
            return None
        for turn in turns:
            found = grams(turn.hashes, turn.weights, self.ngram)
            hit = np.flatnonzero(among(found.hashes, self.ngrams.hashes))
            if len(hit):
                item = int(self.ngrams.items_of(found.hashes[hit[:1]]).min())
                mine = among(found.hashes, np.sort(self.ngrams.of_item(item)))
                return Contamination(NGRAM, item, _longest(turn, found.first[mine], found.last[mine]))
        return self._fuzzy(turns)

    def _fuzzy(self, turns: Sequence[Turn]) -> Contamination | None:
        """Finds an item of which the row changes a few words, so that no whole n-gram of it is left."""
        # Otherwise items of fewer than LEAST_FUZZY words would count: too few to compare with some of them changed.
        if self.ngram < LEAST_FUZZY or not len(self.own_words):
            return None
        least = np.where(self.has_boilerplate, LEAST_FUZZY, self.ngram)
        share = np.where(self.own_words >= least, self._own_shares(turns), 0.0)
        item = int(np.argmax(share))
        return Contamination(NGRAM, item, self._shared(turns, item)) if share[item] >= self.threshold else None

    def _own_shares(self, turns: Sequence[Turn]) -> np.ndarray:
        """The share of each item's own shingles that the row has, float64 of shape (items,)."""
        mine = np.unique(_joined([shingles(turn).hashes for turn in turns]))
        hits = np.bincount(self.shingles.items_of(mine), minlength=len(self.item_ids))
        found: np.ndarray = hits / np.maximum(1, self.own_shingles)
        return found

    def _shared(self, turns: Sequence[Turn], item: int) -> str:
        """The longest run of the row's units in which every shingle is one of the item's own."""
        known, texts = self.shingles.of_item(item), [""]
        for turn in turns:
            found = shingles(turn)
            mine = among(found.hashes, known)
            texts.append(_longest(turn, found.first[mine], found.last[mine]))
        return max(texts, key=len)


@dataclass(frozen=True)
class Owned:
    """A turn of an item, and a mask of its units outside boilerplate."""

    turn: Turn
    own: np.ndarray

    def ngrams(self, words: int) -> np.ndarray:
        """Hashes of the n-grams with at least half of their weight outside boilerplate."""
        found = grams(self.turn.hashes, self.turn.weights, words)
        owned = before(self.turn.weights * self.own)
        return found.hashes[2 * (owned[found.last] - owned[found.first]) >= words * WORD]

    def shingles(self) -> np.ndarray:
        """Hashes of the shingles with at least one unit outside boilerplate."""
        found = shingles(self.turn)
        owned = before(self.own.astype(np.int64))
        return found.hashes[owned[found.last] > owned[found.first]]

    def words(self) -> int:
        return int(self.turn.weights[self.own].sum()) // WORD


def _joined(found: Sequence[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))


def _longest(turn: Turn, first: np.ndarray, last: np.ndarray) -> str:
    """The longest stretch of units that the runs `first`..`last` cover without a gap, cut to SHOWN_CHARS."""
    # Difference array: +1 at the start of a run and -1 at its end; its running sum counts the runs over each unit.
    covered = np.zeros(len(turn.units) + 1, np.int64)
    np.add.at(covered, first, 1)
    np.add.at(covered, last, -1)
    inside = np.cumsum(covered[:-1]) > 0
    bounds = np.flatnonzero(np.diff(np.r_[False, inside, False].astype(np.int8)))
    if not len(bounds):
        return ""
    begins, ends = bounds[::2], bounds[1::2]
    at = int(np.argmax(ends - begins))
    return joined(turn.units[begins[at] : ends[at]])[:SHOWN_CHARS]
