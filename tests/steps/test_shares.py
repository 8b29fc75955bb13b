"""The share of rows that filters drop: reported with examples, limited, and counted over the right rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import parse
from tapir_ray.data.schemas import GENERATED_ROWS, INSTRUCTIONS, conform, instruction_id
from tapir_ray.errors import InputError, StageError
from tapir_ray.steps import contamination_list, round_zero, shares
from tapir_ray.steps.clean import clean
from tapir_ray.steps.context import Context
from tests.data.test_contamination_index import SYSTEM, changed, question
from tests.steps.contexts import context_for, rows_of, write

BEFORE, TABLE = "rounds/01/expanded", "rounds/01/checked"


def tables(folder: Path, reasons: list[str | None], before: list[str | None] | None = None, **filters: Any) -> Context:
    """Returns a context whose run has a table before and after the filters; `!` before a reason marks a failed row."""
    context = context_for(folder, "none/seed", filter=filters)
    before = before or [None] * len(reasons)
    for table, found in ((BEFORE, before), (TABLE, reasons)):
        rows = []
        for number, reason in enumerate(found):
            messages = [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": f"Question {number} " + "x" * 90},
            ]
            failed = (reason or "").startswith("!")
            rows.append(
                {
                    "draw_id": f"{number:032x}",
                    "instruction_id": instruction_id(messages),
                    "split": "generated",
                    "source": "generated",
                    "messages": messages,
                    "status": "failed" if failed else "ok" if reason is None else "filtered",
                    "reason": reason and reason.removeprefix("!"),
                }
            )
        context.run.write_rows(table, conform(rows, GENERATED_ROWS))
    return context


def judged(context: Context) -> dict[str, float]:
    tables = context.loop.round(1)
    return shares.judge(context, tables.checked, before=tables.expanded, contaminated=tables.contamination)


def test_a_large_share_is_reported_once_with_three_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = tables(tmp_path, ["near_duplicate: abc"] * 30 + ["over_long"] * 10 + [None] * 60)
    assert judged(context) == {"near_duplicate": 0.3}
    stderr = capsys.readouterr().err
    assert "rounds/01/checked: 30 of 100 rows (30%) are filtered as near_duplicate, such as" in stderr
    (event,) = context.run.events("filter_share")
    assert (event["reason"], event["rows"], event["of"]) == ("near_duplicate", 30, 100)
    assert len(event["examples"]) == 3
    assert (
        event["examples"][0].startswith(f"{0:032x}: 'Question 0 xxx") and "near_duplicate: abc" in event["examples"][0]
    )
    assert SYSTEM[:20] not in stderr and "x" * 81 not in stderr
    assert judged(context) == {"near_duplicate": 0.3}
    assert capsys.readouterr().err == "" and len(context.run.events("filter_share")) == 1


def test_the_share_is_of_the_rows_that_reached_the_filters(tmp_path: Path) -> None:
    """Rows that failed or were filtered before count neither as dropped nor as passed."""
    before = ["!TimeoutError: no answer"] * 900 + ["no_instruction"] * 60 + [None] * 40
    after = before[:960] + ["near_duplicate: abc"] * 10 + [None] * 30
    context = tables(tmp_path, after, before)
    assert judged(context) == {"near_duplicate": 0.25}


@pytest.mark.parametrize("reason", ["near_duplicate: abc", "mentions_a_cat", "over_long", "other_task: Math"])
def test_too_large_a_share_stops_with_the_key_to_change(tmp_path: Path, reason: str) -> None:
    context = tables(tmp_path, [reason] * 85 + [None] * 15)
    kind = reason.partition(":")[0]
    with pytest.raises(
        StageError, match=rf"85 of 100 rows \(85%\) are filtered as {kind}.*filter\.max_share: 1 to continue"
    ):
        judged(context)
    assert context.run.manifest(TABLE).reasons == {kind: 85}, "the record stays"
    with pytest.raises(StageError):
        judged(context)
    assert judged(tables(tmp_path / "b", [reason] * 85 + [None] * 15, max_share=1)) == {kind: 0.85}
    assert judged(tables(tmp_path / "c", [reason] * 80 + [None] * 20)) == {kind: 0.8}, "not above the limit"


def test_a_small_table_is_not_limited(tmp_path: Path) -> None:
    assert judged(tables(tmp_path, ["over_long"] * 19)) == {}


def test_the_limits_change_no_results() -> None:
    base = {"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}}
    moved = parse({**base, "filter": {"warn_share": 0.5, "max_share": 1}})
    assert moved.digest() == parse(base).digest()
    assert parse({**base, "filter": {"common_ngram_rows": 20}}).digest() != parse(base).digest()


def test_shared_system_prompts_filter_nothing(tmp_path: Path, ray_local: None) -> None:
    """4,000 unrelated rows, three of four under one of three system prompts; two of them are contaminated."""
    systems = [SYSTEM, question(-1, 16), question(-2, 33)]
    rows = [
        {"instruction": question(n), "output": "yes", **({"system": systems[n % 4]} if n % 4 < 3 else {})}
        for n in range(3998)
    ]
    item = question(-5, 24)
    rows += [
        {"instruction": changed(item), "output": "no", "system": SYSTEM},
        {"instruction": f"Before that, say hello. {item} Then say goodbye.", "output": "no"},
    ]
    evaluation = write(tmp_path / "set.jsonl", [{"question": item, "system": SYSTEM}])
    path = write(tmp_path / "seed.jsonl", rows)
    context = context_for(tmp_path, path, holdout={"rows": 400}, filter={"evaluation_sets": [evaluation]})
    round_zero.ingest(context)
    manifest = context.run.manifest("seed/ingested")
    assert manifest.rows == 4000
    assert manifest.reasons == {"contamination_evaluation": 2}
    listed = rows_of(context, "seed/contamination")
    assert sorted((one["source"], one["contaminated_by"], one["rule"]) for one in listed) == [
        ("seed.jsonl:3999", "evaluation", "near_duplicate"),
        ("seed.jsonl:4000", "evaluation", "near_duplicate"),
    ]
    assert {one["item_source"] for one in listed} == {"set.jsonl:1"}
    texts = {one["source"]: one["shared_text"] for one in listed}
    assert texts["seed.jsonl:4000"] == item.rstrip("?") and texts["seed.jsonl:3999"] in item
    assert contamination_list.counts(context.run, context.layout.contamination) == {"evaluation": {"near_duplicate": 2}}
    assert context.run.events("filter_share") == []


def test_a_contaminated_source_is_refused_before_anything_is_spent(tmp_path: Path, ray_local: None) -> None:
    items = [question(n, 20) for n in range(40)]
    evaluation = write(tmp_path / "set.jsonl", [{"question": item} for item in items])
    seeds = [{"instruction": changed(item), "output": "a"} for item in items] + [
        {"instruction": "Hi", "output": "b"}
    ] * 3
    path = write(tmp_path / "seed.jsonl", seeds)
    sections: dict[str, Any] = {"holdout": {"rows": 0}}
    context = context_for(tmp_path, path, **sections, filter={"evaluation_sets": [evaluation]})
    for _ in range(2):  # A second start stops as well.
        with pytest.raises(
            InputError, match=r"seed/ingested: 40 of 43 rows .*contamination_evaluation.*set\.jsonl:\d+, by '"
        ):
            round_zero.ingest(context)
    assert context.run.manifest("seed/contamination").rows == 40
    again = context_for(tmp_path, path, **sections, filter={"evaluation_sets": [evaluation], "max_share": 1})
    round_zero.ingest(again)


def test_holdout_rows_do_not_count_as_rows_of_a_filter(tmp_path: Path) -> None:
    context = context_for(tmp_path, "none/seed")
    rows = [
        {"instruction_id": f"{n:032x}", "split": "holdout" if n < 60 else "seed", "status": "ok", "source": f"a:{n}"}
        for n in range(100)
    ]
    context.run.write_rows("seed/read", conform(rows, INSTRUCTIONS))
    marked = [
        *rows[:60],
        *({**row, "status": "filtered", "reason": "contamination_holdout: ngram"} for row in rows[60:90]),
        *rows[90:],
    ]
    context.run.write_rows("seed/ingested", conform(marked, INSTRUCTIONS))
    layout = context.layout
    found = shares.judge(
        context, layout.ingested, before=layout.read, contaminated=layout.contamination, error=InputError
    )
    assert found == {"contamination_holdout": 0.75}


def test_the_share_of_a_regeneration_counts_its_filters_and_not_rows_left_out_on_purpose(
    tmp_path: Path, ray_local: None
) -> None:
    frame = "Read the question below with care and then answer it in one short sentence without any list: {}"
    rows = [{"instruction": frame.format(question(n)), "output": "a"} for n in range(60)]
    rows += [{"instruction": frame.format(changed(question(n, 30))), "output": "a"} for n in range(5)]
    rows += [{"instruction": frame.format(question(n, 30)), "output": "a"} for n in range(5)]
    sections: dict[str, Any] = {
        "student": {"model": None},
        "regenerate": {"operations": ["filter", "classify"]},
        "classify": {"by": "teacher"},
    }
    context = context_for(tmp_path, write(tmp_path / "seed.jsonl", rows), **sections)
    clean(context)
    assert context.run.manifest("seed/ingested").reasons == {"near_duplicate": 5}
    assert context.run.manifest("seed/contamination").rows == 0
    alike = [{"instruction": f"{question(1, 30)} {n}", "output": "a"} for n in range(50)]
    context = context_for(
        tmp_path / "b",
        write(tmp_path / "alike.jsonl", alike),
        **sections,
    )
    with pytest.raises(InputError, match=r"near_duplicate.*raise filter\.near_duplicate"):
        clean(context)
