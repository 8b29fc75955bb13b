"""Families of instructions: each reads, answers and grades its own texts; there are enough texts, and few look
alike."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.config import Curriculum
from tapir_ray.curriculum.tasks import load
from tapir_ray.simulator.families import FAMILIES, LEVELS, Family, Problem, grade, understand
from tapir_ray.simulator.text import canonical, words

families = st.sampled_from(FAMILIES)
levels = st.sampled_from(LEVELS)
seeds = st.integers(0, 2**32)
GARBAGE = ("", " ", "answer :", "i do not know .", "? ? ?", "the the the the the the", "dear", ", , ,", "#", "( )")


def problem_of(family: Family[Any], instruction: str) -> Problem:
    known = understand(instruction)
    assert known is not None and known[0] is family
    return known[1]


@given(families, levels, seeds)
@settings(max_examples=500, deadline=None)
def test_an_instruction_is_read_back_with_its_family_and_level(family: Family[Any], level: int, seed: int) -> None:
    instruction = family.generate(level, random.Random(seed))
    assert canonical(instruction) == instruction
    assert problem_of(family, instruction).level == level
    assert sum(other.parse(instruction) is not None for other in FAMILIES) == 1


@given(families, levels, seeds)
@settings(max_examples=500, deadline=None)
def test_right_answers_are_worth_one_in_either_style_and_any_spacing(
    family: Family[Any], level: int, seed: int
) -> None:
    instruction = family.generate(level, random.Random(seed))
    problem = problem_of(family, instruction)
    for answer in (family.plain(problem), family.styled(problem)):
        assert grade(instruction, answer) == 1.0
        split_digits = re.sub(r"(?<=\d)(?=\d)", " ", answer)
        assert grade(instruction, f"  {split_digits.upper()}\n") == 1.0


@given(families, levels, seeds, seeds)
@settings(max_examples=500, deadline=None)
def test_other_answers_are_worth_less(family: Family[Any], level: int, seed: int, other_seed: int) -> None:
    instruction = family.generate(level, random.Random(seed))
    problem = problem_of(family, instruction)
    other = family.parse(family.generate(level, random.Random(other_seed)))
    for answer in (family.plain(other), family.styled(other)):
        if sorted(family.plain(other).split()) != sorted(family.plain(problem).split()):
            assert grade(instruction, answer) < 1.0
    for answer in GARBAGE:
        assert grade(instruction, answer) == 0.0
    assert grade(instruction, instruction) < 0.5
    assert 0.0 <= grade(instruction, family.plain(problem) + " red") <= 1.0


@pytest.mark.parametrize(
    ("instruction", "answer", "expected"),
    [
        ("tom has 7 pens , finds 3 , loses 2 . how many pens now ?", "8", 1.0),
        ("tom has 7 pens , finds 3 , loses 2 . how many pens now ?", "7 + 3 = 10 , 10 - 2 = 8 . answer : 8", 1.0),
        ("tom has 7 pens , finds 3 , loses 2 . how many pens now ?", "9", 0.0),
        ("tom has 17 pens , finds 30 , loses 2 . how many pens now ?", "43", 0.3),
        ("list what tom can eat : egg , bus , cake .", "cake , egg", 1.0),
        ("list what tom can eat : egg , bus , cake .", "egg", 0.3),
        ("list what tom can eat : egg , bus , cake .", "egg , bus", 0.0),
        ("write a note from tom to mia : hat red , cup blue .", "dear mia , the hat is red . tom", 0.7),
        ("print ( hats )", "print ( hats )", 0.0),
        ("Summarize the text below.", "A summary.", 0.0),
    ],
)
def test_known_answers_have_their_grades(instruction: str, answer: str, expected: float) -> None:
    assert grade(instruction, answer) == pytest.approx(expected)


def test_a_fault_left_in_is_worth_less_than_another_small_mistake() -> None:
    instruction = "correct the grammar : mia have two old hats ."
    assert grade(instruction, "mia has two old hats") == 1.0
    assert grade(instruction, "mia have two old hats") < grade(instruction, "mia has two old hat") < 1.0


@pytest.mark.parametrize(
    "facts",
    [
        "tom is older than ana , ana is older than ben , ben is older than ana",
        "tom is older than ana , ana is older than ben , ben is older than tom",
        "tom is older than tom",
        "tom is older than ana , ben is older than ana",
        "tom is older than ana , mia is older than leo , leo is older than mia",
    ],
)
@pytest.mark.timeout(20)
def test_comparisons_without_an_order_are_unknown_and_do_not_hang(facts: str) -> None:
    assert understand(f"{facts} . list them from oldest to youngest .") is None


@given(families, levels, seeds, st.lists(st.tuples(*[st.integers(0, 60)] * 3), min_size=1, max_size=4))
@settings(max_examples=500, deadline=5000)
def test_a_mangled_instruction_is_unknown_or_has_a_right_answer(
    family: Family[Any], level: int, seed: int, moves: list[tuple[int, int, int]]
) -> None:
    """Teachers and users write instructions outside the families. Chunks copied elsewhere must not hang or break the
    server."""
    text = family.generate(level, random.Random(seed)).split()
    for start, length, place in moves:
        begin, at = start % len(text), place % len(text)
        text[at:at] = text[begin : begin + length % 9 + 1]
    known = understand(" ".join(text))
    if known is not None:
        assert all(grade(" ".join(text), answer(known[1])) == 1.0 for answer in (known[0].plain, known[0].styled))


@pytest.mark.parametrize("start", ["9" * 5000, "3"])
def test_a_sum_beyond_the_limits_is_unknown(start: str) -> None:
    assert understand(f"tom has {start} pens , finds 3 , loses 7 . how many pens now ?") is None


def test_labels_belong_to_the_shipped_taxonomy() -> None:
    assert {family.label for family in FAMILIES} <= set(load(Curriculum()).labels)
    assert len(FAMILIES) >= 8 and len({family.label for family in FAMILIES}) >= 6


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_at_least_1e5_instructions_exist_from_level_2_on(family: Family[Any]) -> None:
    """The estimate n(n-1)/2 / (equal pairs) of n draws approaches 1 / Σp², which is at most the number of
    instructions."""
    draws = 4000
    for level in LEVELS[1:]:
        rng = random.Random(level)
        counts = Counter(family.generate(level, rng) for _ in range(draws))
        equal_pairs = sum(count * (count - 1) // 2 for count in counts.values())
        assert draws * (draws - 1) / 2 / max(equal_pairs, 1) >= 1e5


def test_fewer_than_a_fifth_of_fresh_draws_are_near_duplicates() -> None:
    """Counted by the exact Jaccard similarity of word 3-grams to all kept texts, at the shipped threshold of 0.7."""
    rng = random.Random(5)
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    dropped = 0
    for _ in range(1600):
        instruction = rng.choice(FAMILIES).generate(rng.choice(LEVELS[1:]), rng)
        found = re.findall(r"\w+", instruction.lower())
        grams = set(zip(found, found[1:], found[2:], strict=False))
        shared = Counter(place for gram in grams for place in places[gram])
        if any(count / (len(grams) + sizes[place] - count) >= 0.7 for place, count in shared.items()):
            dropped += 1
            continue
        for gram in grams:
            places[gram].append(len(sizes))
        sizes.append(len(grams))
    assert dropped / 1600 < 0.2


def test_the_vocabulary_and_the_texts_are_small_enough_for_a_tiny_student() -> None:
    """A student of a million parameters learns nothing from more words or from texts beyond its short context."""
    rng = random.Random(1)
    vocabulary: set[str] = set()
    for family in FAMILIES:
        for level in LEVELS:
            for _ in range(100):
                instruction = family.generate(level, rng)
                problem = family.parse(instruction)
                texts = [instruction, family.plain(problem), family.styled(problem)]
                vocabulary.update(word for text in texts for word in words(text) if not word.isdigit())
                assert all(len(words(text)) <= 64 for text in texts)
    assert len(vocabulary) <= 400
