"""Words of texts in any script, counted alike for near-duplicates, n-grams and lengths."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.data.words import WORD, clipped, joined, piece_ends, units, weights_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How many apples, don’t you know?", ["how", "many", "apples", "don", "t", "you", "know"]),
        ("snake_case x1", ["snake_case", "x1"]),
        ("总结文章", ["总", "结", "文", "章"]),
        ("りんごは何個？", ["り", "ん", "ご", "は", "何", "個"]),
        ("사과가 몇 개", ["사", "과", "가", "몇", "개"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("用Python写", ["用", "python", "写"]),
        ("😀😀 ok 👍🏽", ["😀😀", "ok", "👍🏽"]),
        ("?! … ——", []),
        ("", []),
    ],
)
def test_a_text_is_split_into_units(text: str, expected: list[str]) -> None:
    assert units(text) == [unicodedata.normalize("NFKC", unit) for unit in expected]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＡＢＣ　１２３", "abc 123"),
        ("ﾊﾝｶｸ", "ハンカク"),
        ("Straße", "STRASSE"),
        ("café", "cafe\u0301"),
        ("co\u00adoperate zero\u200bwidth", "cooperate zerowidth"),
        ("说，好。", "说 好"),
        ("한국어 문장", "한국어문장"),
        ("①", "1"),
    ],
)
def test_unicode_forms_of_one_text_are_equal(one: str, other: str) -> None:
    assert units(one) == units(other)


def word_count(text: str) -> int:
    """Returns the length of a text in English words, roughly: a Chinese character counts as two thirds of a word."""
    return -(-int(weights_of(units(text)).sum()) // WORD)


def test_lengths_are_in_english_words_in_any_script() -> None:
    """Translations of one sentence; a count by white space gives 1 for three of them."""
    sentence = {
        "en": "Please summarise the main content of the following article and give three key points",
        "zh": "请总结以下文章的主要内容，并给出三个要点。",
        "ja": "次の記事の主な内容を要約し、要点を三つ挙げてください。",
        "th": "โปรดสรุปเนื้อหาหลักของบทความต่อไปนี้และให้ประเด็นสำคัญสามข้อ",
        "ko": "다음 글의 주요 내용을 요약하고 핵심 요점을 세 가지 제시해 주세요.",
    }
    assert word_count(sentence["en"]) == 14
    assert all(11 <= word_count(text) <= 17 for text in sentence.values()), {
        k: word_count(v) for k, v in sentence.items()
    }
    assert word_count("") == word_count("?!") == 0 and word_count("好") == 1


@given(st.text(max_size=60))
def test_any_text_has_units_without_white_space(text: str) -> None:
    found = units(text)
    assert len(weights_of(found)) == len(found)
    assert all(unit and not any(one.isspace() for one in unit) for unit in found)


@given(st.text(alphabet="ab 字か各อ", max_size=30))
def test_joined_units_split_into_the_same_units(text: str) -> None:
    assert units(joined(units(text))) == units(text)


def test_a_clipped_text_is_a_single_short_line() -> None:
    assert clipped("a\n b", 5) == "a b"
    assert clipped("word " * 40, 10) == "word word…"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [("How many, really?", 3), ("  a\n b ", 2), ("这是一个答案。", 7), ("用 Python 写。", 4), ("", 0), ("ที่นี่", 2)],
)
def test_pieces_are_words_or_characters_of_scripts_without_spaces(text: str, pieces: int) -> None:
    ends = piece_ends(text)
    assert len(ends) == pieces
    assert ends == sorted(set(ends)) and (not ends or ends[-1] == len(text.rstrip()))


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=40))
def test_pieces_of_plain_text_are_its_words(text: str) -> None:
    assert len(piece_ends(text)) == len(text.split())
