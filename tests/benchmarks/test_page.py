"""The page of figures agrees with the result files."""

from __future__ import annotations

import json

from tests.benchmarks.scripts import script

page = script("page")


def test_the_page_is_written_from_the_results() -> None:
    results = [json.loads(file.read_text()) for file in sorted(page.RESULTS.glob("*.json"))]
    assert page.PAGE.read_text() == page.page(results), "run: python benchmarks/page.py"


def test_a_ratio_without_a_description_shows_its_name() -> None:
    result = {
        "benchmark": "pilot",
        "ratios": {"used_against_estimated": 0.98765},
        "figures": {},
        "versions": {"ray": "2"},
        "machine": "two cores",
        "date": "2026-01-02",
    }
    text = page.page([result, {**result, "benchmark": "unknown"}])
    assert "| used against estimated | 0.988 |  |" in text and "2026-01-02, on two cores: ray 2." in text
    assert "unknown" not in text and "before" not in text


def test_a_part_measured_earlier_than_the_others_shows_its_date() -> None:
    figures = {"old": {"date": "2026-01-01"}, "new": {"date": "2026-01-02"}, "rows": 3}
    result = {"benchmark": "pilot", "ratios": {}, "figures": figures, "versions": {}, "machine": "m"}
    assert "Measured before: old 2026-01-01.\n" in page.page([{**result, "date": "2026-01-02"}])
