"""Win rates of AlpacaEval's published annotations, and of files with rows that have no usable preference."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.errors import InputError
from tapir_ray.evaluate.alpaca_eval_annotations import WinRate, rate, win_rate

PUBLISHED = [
    ("alpaca-7b", 2.591450540223603, 0.4870855382635108, (17, 785, 3), 2.298136645962733),
    ("vicuna-7b-v1.5", 4.797493939167703, 0.6655960676971918, (35, 767, 3), 4.53416149068323),
]
"""Rows of the leaderboard of alpaca_eval 0.6.6: win_rate, standard_error, (n_wins, n_wins_base, n_draws),
discrete_win_rate."""


def written(folder: Path, content: Any) -> str:
    """Returns the path of a file of annotations; a string is written as it is."""
    path = folder / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize(("model", "raw", "error", "counts", "discrete"), PUBLISHED)
def test_published_annotations_give_the_row_of_the_leaderboard(
    data_folder: Path, tmp_path: Path, model: str, raw: float, error: float, counts: tuple[int, ...], discrete: float
) -> None:
    packed = data_folder / "eval" / "alpaca_eval" / f"{model}.annotations.json.gz"
    found = win_rate(str(packed))
    assert (found.win_rate, found.standard_error) == (pytest.approx(raw, abs=1e-9), pytest.approx(error, abs=1e-9))
    assert (found.n_wins, found.n_wins_base, found.n_draws) == counts and found.n_total == 805 == sum(counts)
    assert found.discrete_win_rate == pytest.approx(discrete, abs=1e-9) and not found.left_out
    assert win_rate(written(tmp_path, gzip.decompress(packed.read_bytes()).decode())) == found, "a plain .json file"


def test_draws_are_half_a_win_and_rounded_ties_are_not_draws() -> None:
    """0 is a draw of old files. 1.5000001 rounds to a win, and 1.5 stays half a win in the discrete rate."""
    found = rate([{"preference": value} for value in (1, 2, 1.5, 0, 1.5000001, 1.25)])
    assert found.win_rate == pytest.approx(100 * (0 + 1 + 0.5 + 0.5 + 0.5000001 + 0.25) / 6)
    assert (found.n_wins, found.n_wins_base, found.n_draws) == (2, 2, 2)
    assert found.discrete_win_rate == pytest.approx(100 * (0 + 1 + 0.5 + 0.5 + 1 + 0) / 6)


def test_annotations_without_a_usable_preference_are_counted_by_reason(tmp_path: Path) -> None:
    good = [{"preference": 1.25}, {"preference": "1.75"}]
    bad = [{}, {"preference": None}, {"preference": float("nan")}, {"preference": ""}]
    odd = [{"preference": "better"}, {"preference": [1.5]}, {"preference": True}, "torn"]
    far = [{"preference": -1}, {"preference": 2.5}, {"preference": 1e400}, {"preference": 10**400}]
    found = win_rate(written(tmp_path, [*good, *bad, *odd, *far]))
    assert (found.win_rate, found.n_total) == (50.0, 2)
    assert found.left_out == {"no preference": 4, "not a number": 5, "not from 1 to 2": 3}
    assert found.in_words.endswith(
        "2 annotations, without 4 (no preference), without 5 (not a number), without 3 (not from 1 to 2))"
    )


def test_json_lines_are_read_and_a_torn_line_is_counted(tmp_path: Path) -> None:
    found = win_rate(written(tmp_path, '{"preference": 2}\n\n{"preference": 1}\n{"preference": 1.\n'))
    assert (found.win_rate, found.left_out) == (50.0, {"not a number": 1})


def test_one_annotation_has_no_standard_error() -> None:
    assert rate([{"preference": 2}]) == WinRate(100.0, None, 100.0, 1, 0, 0, 1, {})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "no annotation has a preference"),
        ('[{"preference": null}]', "no annotation has a preference .*no preference"),
        ('{"win_rate": 3}', "holds a dict"),
        ('[{"preference": 1', "not JSON"),
    ],
)
def test_a_file_without_annotations_is_refused(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(InputError, match=rf"annotations .*annotations.json: {words}"):
        win_rate(written(tmp_path, content))


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        win_rate(str(tmp_path / "none.json"))
    damaged = tmp_path / "damaged.json.gz"
    damaged.write_bytes(gzip.compress(b'[{"preference": 1}]' * 99)[:-20])
    with pytest.raises(InputError, match=r"damaged.json.gz: cannot be read"):
        win_rate(str(damaged))
