"""The card of a regenerated dataset: front matter for the hub, and counts by reason that add up to all rows."""

from __future__ import annotations

import pytest
import yaml

from tapir_ray.config import parse
from tapir_ray.errors import StageError
from tapir_ray.run.manifest import Manifest
from tapir_ray.steps.dataset_card import Report, card, counts, size_category

CONFIG = parse(
    {
        "name": "mine",
        "seed_data": {"path": "/home/me/secret/alpaca.jsonl", "license": "cc-by-nc-4.0", "responses": "fill"},
        "regenerate": {"operations": ["filter", "answer"]},
    }
)


def manifest(ok: int, filtered: dict[str, int], failed: dict[str, int]) -> Manifest:
    out, lost = sum(filtered.values()), sum(failed.values())
    statuses = {"ok": ok, "filtered": out, "failed": lost}
    return Manifest("t", ok + out + lost, [], statuses, reasons=filtered, errors=failed)


PARTS = [manifest(5, {"duplicate": 2, "empty": 1}, {}), manifest(3, {"duplicate": 1}, {"timeout": 1})]


def report(teachers: dict[str, int]) -> Report:
    usage = {"teacher": {"requests": 9, "input_tokens": 1234, "output_tokens": 56, "cost": 0.25}}
    held = {"task": {"Math": 8}, "preferred": {}, "teacher_model": teachers}
    return Report(counts(13, PARTS), held, usage, {"ray": "2.60.0"})


def test_rows_in_equal_rows_out_by_reason() -> None:
    found = counts(13, PARTS)
    assert (found.ok, found.filtered, found.failed) == (8, {"duplicate": 3, "empty": 1}, {"timeout": 1})
    with pytest.raises(StageError, match="14 rows went in, 13 came out"):
        counts(14, PARTS)
    with pytest.raises(StageError, match="came out"):
        counts(8, [Manifest("t", 8, [], {"ok": 5, "filtered": 3}, reasons={"empty": 2})])


def test_the_front_matter_is_valid_for_the_hub() -> None:
    _, front, _ = card(CONFIG, report({"t-2026": 8})).split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["license"] == "cc-by-nc-4.0" and found["size_categories"] == ["n<1K"]
    assert found["task_categories"] == ["text-generation"] and "synthetic" in found["tags"]
    assert found["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert "synthetic" not in yaml.safe_load(card(CONFIG, report({})).split("---\n", 2)[1])["tags"]


def test_the_card_shows_counts_versions_and_cost_and_no_path() -> None:
    text = card(CONFIG, report({"t-2026": 8}))
    for line in ("| read | 13 |", "| in this dataset | 8 |", "| filtered: duplicate | 3 |", "| failed: timeout | 1 |"):
        assert line in text
    assert (
        "| ray | 2.60.0 |" in text and "0.2500 US dollars" in text and "| teacher | 9 | 1,234 | 56 | 0.2500 |" in text
    )
    assert "`alpaca.jsonl`" in text and "/home/me" not in text
    assert "preferred answer" not in text


@pytest.mark.parametrize(
    ("rows", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (999_999, "100K<n<1M"), (10**6, "1M<n<10M"), (10**9, "1B<n<10B")],
)
def test_size_categories_are_those_of_the_hub(rows: int, name: str) -> None:
    assert size_category(rows) == name
