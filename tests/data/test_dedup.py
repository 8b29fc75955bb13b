"""Near-duplicates: equal to the pairwise definition for any order of arrival, also across rounds."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
import ray.data
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.data import dedup
from tapir_ray.data.dedup import (
    band_table,
    bands,
    find_matches,
    mark_near_duplicates,
    read_range,
    write_bands,
)
from tapir_ray.data.minhash import band_hashes, rows_per_band, shingles, signatures, similarity
from tapir_ray.data.schemas import GENERATED_ROWS, instruction_id

TEXT_WORDS = "count the red green blue apples in a box of old wooden toys near my house today please"
WORDS = TEXT_WORDS.split()
COLUMNS = ["instruction_id", "messages", "status", "reason"]
SCHEMA = pa.schema([("order", pa.string()), *(GENERATED_ROWS.field(name) for name in COLUMNS)])


def rows_of(texts: list[str], first: int = 0, status: str = "ok") -> pa.Table:
    messages = [[{"role": "user", "content": text}] for text in texts]
    return pa.table(
        {
            "order": [f"{n + first:04d}" for n in range(len(texts))],
            "instruction_id": [instruction_id(one) for one in messages],
            "messages": messages,
            "status": [status] * len(texts),
            "reason": pa.nulls(len(texts), pa.string()),
        },
        schema=SCHEMA,
    )


RANGES = 5


def matches(current: pa.Table, earlier: pa.Table, threshold: float) -> dict[str, tuple[bool, str]]:
    """Returns {duplicate: (same messages, first)} over all ranges of hashes, as the Ray tasks join them."""
    parts, older = band_table(current, threshold), band_table(earlier, threshold)
    found: dict[str, tuple[bool, str]] = {}
    for number in range(RANGES):
        pair = [part.filter(pa.array(range_of(part) == number)) for part in (parts, older)]
        for row in find_matches(*pair, threshold).to_pylist():
            rank = (not row["same"], row["first"])
            best = found.get(row["order"])
            if best is None or rank < (not best[0], best[1]):
                found[row["order"]] = (row["same"], row["first"])
    return found


def range_of(entries: pa.Table) -> np.ndarray:
    return np.array([band * RANGES >> 64 for band in entries["band"].to_pylist()], np.int64)


TEXT = st.lists(st.sampled_from(WORDS[:6]), min_size=1, max_size=9).map(" ".join)
VARIED = TEXT | TEXT.map(str.title)


@settings(max_examples=40, deadline=None)
@given(st.lists(VARIED, min_size=1, max_size=12), st.lists(VARIED, max_size=4), st.sampled_from([0.6, 0.7, 0.9]))
def test_duplicates_match_the_pairwise_definition(texts: list, before: list, threshold: float) -> None:
    found = matches(rows_of(texts, first=100), rows_of(before), threshold)
    everything = rows_of([*before, *texts])
    signature, ids = signatures([*before, *texts]), everything["instruction_id"].to_pylist()
    hashes = band_hashes(signature, threshold)
    orders = [f"{n:04d}" for n in range(len(before))] + [f"{n + 100:04d}" for n in range(len(texts))]
    expected: dict[str, tuple[bool, str]] = {}
    for late in range(len(before), len(orders)):
        ranks = [
            (ids[early] != ids[late], orders[early])
            for early in range(late)
            if (hashes[early] == hashes[late]).any() and similarity(signature[early], signature[late]) >= threshold
        ]
        if ranks:
            other, first = min(ranks)
            expected[orders[late]] = (not other, first)
    assert found == expected


def test_the_estimate_is_near_the_true_jaccard_similarity() -> None:
    generator = random.Random(0)
    errors = []
    for _ in range(50):
        words = generator.choices(WORDS, k=40)
        changed = [word if generator.random() > 0.1 else "other" for word in words]
        one, other = " ".join(words), " ".join(changed)
        true = len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))
        signature = signatures([one, other])
        errors.append(float(similarity(signature[0], signature[1])) - true)
    assert abs(float(np.mean(errors))) < 0.03
    assert max(map(abs, errors)) < 0.2


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7, 0.9, 1.0])
def test_similar_texts_share_a_band(threshold: float) -> None:
    size = rows_per_band(threshold)
    assert 1 - (1 - threshold**size) ** (128 // size) >= 0.99


def test_short_and_empty_texts_have_a_signature_of_their_own() -> None:
    signature = signatures(["Hi", "hi!", "ho", "", "?!"])
    assert (signature[0] == signature[1]).all()
    assert len({entry.tobytes() for entry in signature}) == 4


def test_rows_are_marked_alike_in_any_order_and_across_rounds(ray_local: None, tmp_path: Path) -> None:
    generator = random.Random(1)
    texts = [" ".join(generator.choices(WORDS, k=12)) for _ in range(60)]
    seed = rows_of(texts[:20])
    fresh = [*texts[20:], texts[3], texts[30].upper(), texts[40] + " now", texts[41]]
    current = rows_of(fresh, first=100)
    failed = rows_of([texts[25]], first=500, status="failed")
    shuffled = current.take(pa.array(generator.sample(range(len(current)), len(current))))
    earlier = bands(ray.data.from_arrow(seed), str(tmp_path / "seed"), 0.7)
    answers = []
    for name, blocks in (("one", [current, failed]), ("two", [failed, shuffled.slice(0, 7), shuffled.slice(7)])):
        marked = mark_near_duplicates(ray.data.from_arrow(blocks), str(tmp_path / name), [earlier], 0.7)
        answers.append({row["order"]: (row["status"], row["reason"]) for row in marked.iter_rows()})
    assert answers[0] == answers[1]
    assert len(answers[0]) == len(fresh) + 1
    dropped = {order: reason for order, (status, reason) in answers[0].items() if status == "filtered"}
    ids = current["instruction_id"].to_pylist()
    assert dropped == {
        "0140": f"duplicate: {seed['instruction_id'][3].as_py()}",
        "0141": f"near_duplicate: {ids[10]}",
        "0142": f"near_duplicate: {ids[20]}",
        "0143": f"duplicate: {ids[21]}",
    }
    assert answers[0]["0500"] == ("failed", None)
    later = mark_near_duplicates(
        ray.data.from_arrow(rows_of([texts[50]], first=900)),
        str(tmp_path / "three"),
        [earlier, str(tmp_path / "one")],
        0.7,
    )
    assert [row["reason"] for row in later.iter_rows()] == [f"duplicate: {ids[30]}"]


def test_a_round_without_an_ok_row_passes_unchanged(ray_local: None, tmp_path: Path) -> None:
    rows = rows_of(["one two three"], status="failed")
    marked = mark_near_duplicates(ray.data.from_arrow(rows), str(tmp_path / "bands"), [], 0.7)
    assert marked.take_all() == rows.to_pylist()


def test_a_much_repeated_text_is_joined_quickly() -> None:
    rows = rows_of(["write a short story about a fox and a hound"] * 3000)
    found = matches(rows, rows.slice(0, 0), 0.7)
    assert len(found) == 2999
    assert {first for _, first in found.values()} == {"0000"}


def test_ranges_of_hashes_hold_every_band_once(tmp_path: Path) -> None:
    """True for any number of ranges in a join, whatever number the bands were written with."""
    generator = random.Random(2)
    rows = rows_of([" ".join(generator.choices(WORDS, k=9)) for _ in range(400)])
    for part in (
        rows.slice(0, 250),
        rows.slice(250),
        rows.slice(250),
    ):  # The last slice stands for a task that Ray has repeated.
        write_bands(part, str(tmp_path), pafs.LocalFileSystem(), 0.7)
    (tmp_path / "_manifest.json").write_text("{}")
    whole = band_table(rows, 0.7)
    for ranges in (1, 3, 64):
        read = [read_range(str(tmp_path), number, ranges) for number in range(ranges)]
        assert sum(map(len, read)) == len(whole)
        both = [table.sort_by([("band", "ascending"), ("order", "ascending")]) for table in (*read, whole)]
        assert pa.concat_tables(both[:-1]).combine_chunks().equals(both[-1].combine_chunks())
    assert len(read_range(str(tmp_path / "of a round without rows"), 0, 1)) == 0


def test_a_row_repeated_by_earlier_bands_is_no_duplicate_of_itself() -> None:
    rows = rows_of(["how many apples are in the box", "how many apples are in the box"])
    assert matches(rows, rows.slice(0, 1), 0.7) == {"0001": (True, "0000")}


def test_texts_of_a_crowded_band_are_compared_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many texts of one template share bands. The work must not grow with their square, and a repeat is still found."""
    compared = 0

    def counted(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(one)
        return similarity(one, other)

    monkeypatch.setattr(dedup, "similarity", counted)
    monkeypatch.setattr(dedup, "MOST_COMPARED", 3)
    generator = random.Random(3)
    texts = [" ".join([*WORDS, *generator.choices("abcdefghijklmnopqrstuvwxyz", k=40)]) for _ in range(200)]
    found = matches(rows_of([*texts, f"{texts[0]} now", texts[150]]), rows_of([]), 0.7)
    assert found["0200"] == (False, "0000") and found["0201"] == (True, "0150")
    assert 0 < compared <= 3 * 201 * (128 // rows_per_band(0.7))
