"""The words of a text in any script: what near-duplicates, n-grams and lengths are counted in.

    units("How many apples?")          # ["how", "many", "apples"]
    units("リンゴは何個？")              # ["リ", "ン", "ゴ", "は", "何", "個"]
    word_count("リンゴは何個？")         # 3

A unit is a word of letters, digits and underscores; where a script puts no spaces between words (Chinese, Japanese,
Thai, Lao, Khmer, Burmese), or puts them as each writer likes (Korean), it is a character with its marks. A run of the
same emoji is a unit too. Texts are compared in the form NFKC and without case, so full-width letters equal plain ones.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import xxhash

WORD = 12
"""Weight of a word; a character has the share of it that it has of an average word's meaning."""
HAN, KANA, HANGUL, THAI = 8, 6, 6, 4
SPACELESS: tuple[tuple[str, int], ...] = (
    ("\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff", HAN),
    ("\u3031-\u3035\u3041-\u3096\u309d-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff", KANA),
    ("\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb", HANGUL),
    ("\u0e01-\u0e3a\u0e40-\u0e7f\u0e81-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9fe\uaa60-\uaa7f", THAI),
)
"""Ranges of characters that are units of their own, with their weights."""

_ASCII, _ASCII_PIECE = re.compile(r"\w+"), re.compile(r"\S+")
_LAST = 0x1FFFF
"""Of the code points with marks and symbols; the few format characters beyond are tags."""


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """A unit, an invisible character (a soft hyphen, a zero-width space), and a piece.

    Marks belong to the letter before them: the vowel signs of Hindi and Thai are no `\\w` to Python.
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
    """The characters beyond ASCII of some Unicode categories, as the inside of a regular expression's brackets."""
    points = [point for point in range(128, _LAST + 1) if unicodedata.category(chr(point)) in categories]
    first = [point for point, before in zip(points, [-1, *points], strict=False) if before != point - 1]
    last = [point for point, after in zip(points, [*points[1:], -1], strict=True) if after != point + 1]
    return "".join(f"{chr(a)}-{chr(b)}" for a, b in zip(first, last, strict=True))


_SPACELESS = [(re.compile(f"[{ranges}]"), weight) for ranges, weight in SPACELESS]


def normalised(text: str) -> str:
    """The text in the form NFKC, without case and invisible characters."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", _patterns()[1].sub("", text).casefold()).casefold()


def units(text: str) -> list[str]:
    """The words of a text, single characters in scripts without spaces; none in a text of punctuation alone."""
    text = normalised(text)
    if text.isascii():
        return _ASCII.findall(text)
    return [found[0] for found in _patterns()[0].finditer(text)]


def weight_of(unit: str) -> int:
    """The share of a word that a unit is, in WORDths."""
    if unit.isascii():
        return WORD
    return next((weight for pattern, weight in _SPACELESS if pattern.match(unit)), WORD)


def weights_of(found: Sequence[str]) -> np.ndarray:
    """The weights of units, int64."""
    return np.array([weight_of(unit) for unit in found], np.int64)


def word_count(text: str) -> int:
    """About how many English words a text is long: a Chinese character counts for two thirds of one."""
    return -(-sum(map(weight_of, units(text))) // WORD)


def joined(found: Sequence[str]) -> str:
    """Units as a text to read: a space between two of them, if one is a word."""
    text = ""
    for at, unit in enumerate(found):
        spaced = at > 0 and WORD in (weight_of(unit), weight_of(found[at - 1]))
        text += f" {unit}" if spaced else unit
    return text


def piece_ends(text: str) -> list[int]:
    """Where each piece of a text ends: a word between white space, or a character in scripts without spaces."""
    pattern = _ASCII_PIECE if text.isascii() else _patterns()[2]
    return [found.end() for found in pattern.finditer(text)]


def width(text: str) -> int:
    """Columns that a text takes: two for each wide character, such as a Chinese one."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def hashes_of(found: Sequence[str]) -> np.ndarray:
    """A 64-bit hash of each unit, uint64."""
    return np.array([xxhash.xxh3_64_intdigest(unit.encode("utf-8", "surrogatepass")) for unit in found], np.uint64)


def clipped(text: str, chars: int) -> str:
    """The beginning of a text on one line, at most so many characters, with `…` if there is more."""
    line = " ".join(text.split())
    return line if len(line) <= chars else f"{line[: chars - 1]}…"
