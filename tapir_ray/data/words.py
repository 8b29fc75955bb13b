"""Splits text in any script into words, the unit of near-duplicates, n-grams and lengths.

    units("How many apples?")          # ["how", "many", "apples"]
    units("リンゴは何個？")              # ["リ", "ン", "ゴ", "は", "何", "個"]

A unit is a word of letters, digits and underscores. In scripts without spaces between words (Chinese, Japanese, Thai,
Lao, Khmer, Burmese), or with optional ones (Korean), a unit is a character with its marks. A run of the same emoji is a
unit too. Texts are compared in NFKC form and without case, so full-width letters equal plain ones.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import xxhash

WORD = 12
"""Weight of a word. A character's weight is its share of an average word: a Chinese one has 8/12, so 3 make 2 words."""
HAN, KANA, HANGUL, THAI = 8, 6, 6, 4
SPACELESS: tuple[tuple[str, int], ...] = (
    ("\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff", HAN),
    ("\u3031-\u3035\u3041-\u3096\u309d-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff", KANA),
    ("\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb", HANGUL),
    ("\u0e01-\u0e3a\u0e40-\u0e7f\u0e81-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9fe\uaa60-\uaa7f", THAI),
)
"""Ranges of characters that are units by themselves, with their weights."""

_ASCII, _ASCII_PIECE = re.compile(r"\w+"), re.compile(r"\S+")
_LAST = 0x1FFFF
"""Last code point to search for marks and symbols; beyond it only tags are of these categories."""


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Patterns of a unit, an invisible character (soft hyphen, zero-width space) and a piece.

    Marks are added to the letter before them, because Python's `\\w` does not match the vowel signs of Hindi and Thai.
    """
    mark, symbol, hidden = _ranges("Mn", "Mc", "Me") + "\U0001f3fb-\U0001f3ff", _ranges("So"), _ranges("Cf")
    spaceless = "".join(ranges for ranges, _ in SPACELESS)
    character, word = f"[{spaceless}][{mark}]*", f"(?:(?![{spaceless}])[\\w{mark}])+"
    run = f"([{symbol}])[{mark}]*(?:\\1[{mark}]*)*"
    piece = f"{character}|(?:(?![{spaceless}])\\S)+"
    found = f"{character}|{word}|{run}", f"[{hidden}\U000e0001-\U000e007f]", piece
    unit, invisible, piece_ = (re.compile(pattern) for pattern in found)
    return unit, invisible, piece_


def _ranges(*categories: str) -> str:
    """The non-ASCII characters of some Unicode categories, as ranges for the brackets of a regular expression."""
    points = [point for point in range(128, _LAST + 1) if unicodedata.category(chr(point)) in categories]
    first = [point for point, before in zip(points, [-1, *points], strict=False) if before != point - 1]
    last = [point for point, after in zip(points, [*points[1:], -1], strict=True) if after != point + 1]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(first, last, strict=True))


_SPACELESS = [(re.compile(f"[{ranges}]"), weight) for ranges, weight in SPACELESS]


def normalised(text: str) -> str:
    """The text in NFKC form, without case and invisible characters."""
    # ASCII text needs no Unicode tables.
    if text.isascii():
        return text.lower()
    # Folded again, because NFKC can give a new capital: ℌ has no lower case, and becomes H.
    return unicodedata.normalize("NFKC", _patterns()[1].sub("", text).casefold()).casefold()


def units(text: str) -> list[str]:
    """The words of a text, single characters in scripts without spaces; none in a text of punctuation alone."""
    text = normalised(text)
    if text.isascii():
        return _ASCII.findall(text)
    return [found[0] for found in _patterns()[0].finditer(text)]


def weight_of(unit: str) -> int:
    """The weight of a unit: WORD for a word, less for a character of a script without spaces."""
    if unit.isascii():
        return WORD
    return next((weight for pattern, weight in _SPACELESS if pattern.match(unit)), WORD)


def weights_of(found: Sequence[str]) -> np.ndarray:
    """The weights of units, int64 of shape (units,)."""
    return np.array([weight_of(unit) for unit in found], np.int64)


def joined(found: Sequence[str]) -> str:
    """The units as readable text, with a space next to each word and none between characters."""
    text = ""
    for at, unit in enumerate(found):
        spaced = at > 0 and WORD in (weight_of(unit), weight_of(found[at - 1]))
        text += f" {unit}" if spaced else unit
    return text


def piece_ends(text: str) -> list[int]:
    """The end of each piece of a text: a run without white space, or a character in scripts without spaces."""
    pattern = _ASCII_PIECE if text.isascii() else _patterns()[2]
    return [found.end() for found in pattern.finditer(text)]


def width(text: str) -> int:
    """The columns of a terminal that a text takes: two for each wide character, such as a Chinese one."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def hashes_of(found: Sequence[str]) -> np.ndarray:
    """A 64-bit hash of each unit, uint64 of shape (units,)."""
    return np.array([xxhash.xxh3_64_intdigest(unit.encode("utf-8", "surrogatepass")) for unit in found], np.uint64)


def clipped(text: str, chars: int) -> str:
    """The text on one line, cut to `chars` characters, with `…` as the last one if it was longer."""
    line = " ".join(text.split())
    return line if len(line) <= chars else f"{line[: chars - 1]}…"
