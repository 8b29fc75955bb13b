"""A user's table in place of a stage's own: checked like the run's tables, and imported only once."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import parse
from tapir_ray.data.schemas import SOURCE_AND_ID
from tapir_ray.errors import InputError
from tapir_ray.methods.tapir import layout
from tapir_ray.steps.context import Context
from tapir_ray.steps.import_rows import import_rows, own_table
from tests.steps.contexts import context_for, rows_of, write

WORDS = [f"{a}{b}" for a in ("ba", "de", "ki", "lo", "mu", "ra", "si", "to") for b in ("n", "r", "s", "t", "lk", "mp")]
DRAW = random.Random(0)
QUESTIONS = [" ".join(DRAW.choices(WORDS, k=16)) for _ in range(60)]
LAYOUT = layout(parse({"name": "x", "seed_data": {"path": "a"}, "student": {"model": "m"}}))
HIDDEN = "Write a haiku on the autumn moon over the harbour of a sleeping town."


def row(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "response": "a", "task": "Math", **more}


def context(folder: Path, **sections: Any) -> Context:
    """Returns a run over 40 questions; one further question is in an evaluation set."""
    seed_path = write(folder / "seed.jsonl", [{"instruction": text, "output": "a"} for text in QUESTIONS[:40]])
    hidden = write(folder / "hidden.jsonl", [{"turns": [HIDDEN]}])
    return context_for(folder, seed_path, **{"filter": {"evaluation_sets": [hidden]}, **sections})


@pytest.mark.parametrize("start", ["train", "nowhere=x.parquet", "train=missing.parquet"])
def test_a_wrong_table_is_named(start: str) -> None:
    with pytest.raises(InputError, match=start.partition("=")[0]):
        own_table(start, LAYOUT)


def test_a_table_with_the_needed_columns_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [row("q")])
    assert own_table(f"train={path}", LAYOUT) == ("train", path)
    assert own_table("", LAYOUT) is None
    with pytest.raises(InputError, match="no column teacher_score; generate begins with messages"):
        own_table(f"generate={path}", LAYOUT)


def test_rows_to_classify_are_split_and_checked(tmp_path: Path, ray_local: None) -> None:
    made = context(tmp_path, seed_data={"responses": "fill"}, random_seed=1)
    rows = [{"messages": row(text)["messages"]} for text in [*QUESTIONS[40:], QUESTIONS[40], HIDDEN]]
    path = write(tmp_path / "mine.jsonl", rows)
    import_rows(made, "classify", path)
    found = rows_of(made, "seed/ingested")
    assert len(found) == 22
    assert Counter(one["reason"] for one in found) == {None: 20, "duplicate": 1, "contamination_evaluation: exact": 1}
    assert len({tuple(one[name] for name in SOURCE_AND_ID) for one in found}) == 22, (
        "the key differs from that of the seed data"
    )
    assert Counter(one["split"] for one in found if one["status"] == "ok")["holdout"] == 4

    before = made.run.manifest("seed/ingested")
    import_rows(made, "classify", str(Path(path).parent / "." / "mine.jsonl"))
    assert made.run.manifest("seed/ingested") == before, "a continued run imported the table again"
    other = write(tmp_path / "other.jsonl", rows)
    with pytest.raises(InputError, match=r"already has a table seed/ingested; use another --run-dir"):
        import_rows(made, "classify", other)


def test_a_given_split_is_kept_and_an_unknown_one_is_refused(tmp_path: Path, ray_local: None) -> None:
    made = context(tmp_path)
    rows = [row(text, split="holdout" if n == 0 else "seed") for n, text in enumerate(QUESTIONS[:3])]
    rows.append(row(f"Please: {QUESTIONS[0]}", split="seed"))
    import_rows(made, "score", write(tmp_path / "mine.jsonl", rows))
    found = {one["messages"][0]["content"]: one for one in rows_of(made, "seed/instructions")}
    assert [found[text]["split"] for text in QUESTIONS[:3]] == ["holdout", "seed", "seed"]
    assert found[QUESTIONS[0]]["status"] == "ok"
    assert found[f"Please: {QUESTIONS[0]}"]["reason"].startswith("contamination_holdout")

    again = context_for(tmp_path / "run", str(tmp_path / "seed.jsonl"))
    bad = write(tmp_path / "bad.jsonl", [row("q", split="validation")])
    with pytest.raises(InputError, match=r"bad\.jsonl:1: split is 'validation'; it must be seed, holdout, generated"):
        import_rows(again, "score", bad)
    unknown = write(tmp_path / "unknown.jsonl", [row("q", task="Maths")])
    with pytest.raises(InputError, match="column task: unknown task 'Maths'"):
        import_rows(again, "score", unknown)
    empty = write(tmp_path / "empty.jsonl", [row("q", task=None), row("r", response="")])
    with pytest.raises(InputError, match=r"no usable row among 2 \(no_task 1, no_response 1\)"):
        import_rows(again, "score", empty)
    assert again.run.done("seed/instructions") is None


@pytest.mark.parametrize("stage", ["generate", "mix", "train"])
def test_tables_of_a_round_are_decontaminated_against_the_holdout(tmp_path: Path, ray_local: None, stage: str) -> None:
    made = context(tmp_path)
    scores = {"teacher_score": 8.0, "student_score": 3.0} if stage == "generate" else {}
    texts = [*QUESTIONS, HIDDEN, QUESTIONS[-1]]
    import_rows(made, stage, write(tmp_path / "mine.jsonl", [row(text, **scores) for text in texts]))
    table = {"generate": "scored", "mix": "generated", "train": "training"}[stage]
    found = rows_of(made, f"rounds/01/{table}")
    assert len(found) == len(texts)
    reasons = {one["messages"][0]["content"]: one["reason"] for one in found if one["reason"] != "duplicate"}
    held = {one["messages"][0]["content"] for one in rows_of(made, "seed/ingested") if one["split"] == "holdout"}
    assert len(held) == 4
    assert {reasons[text] for text in held} == {"contamination_holdout: exact"}
    assert reasons[HIDDEN] == "contamination_evaluation: exact"
    assert sum(one["reason"] == "duplicate" for one in found) == 1
    others = {reasons[text] and reasons[text].partition(":")[0] for text in QUESTIONS[:40] if text not in held}
    assert others == ({"duplicate"} if stage == "mix" else {None}), "generated rows must not repeat the seed data"
    assert {reasons[text] for text in QUESTIONS[40:]} == {None}
