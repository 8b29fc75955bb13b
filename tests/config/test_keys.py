"""Every key of the config declares the outputs that it makes stale; keys without any are left out of the results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tapir_ray.config import Config, Section, parse
from tapir_ray.config.keys import invalidated_by, section_of
from tapir_ray.config.section import key

BASE = {"name": "x", "seed_data": {"path": "a.jsonl"}, "student": {"model": "m"}}


def keys(section: type[Section], path: str = "") -> Iterator[str]:
    """Yields every key of a section and of the sections in it."""
    for name, field in section.model_fields.items():
        yield f"{path}{name}"
        if (inner := section_of(field)) is not None:
            yield from keys(inner, f"{path}{name}.")


def test_every_key_declares_the_outputs_it_makes_stale() -> None:
    found = list(keys(Config))
    assert len(found) > 200 and "student.endpoint.limits.in_flight" in found and "train.lora.rank" in found
    assert [name for name in found if not isinstance(invalidated_by(name, Config), tuple)] == []


def test_a_key_without_a_declaration_is_found() -> None:
    class Inner(Section):
        given: int = 0

    class Outer(Section):
        inner: Inner = Inner()
        other: Inner = key(Inner(), invalidates=("scored",))

    assert invalidated_by("other.given", Outer) == ("scored",)
    for name in ("inner", "inner.given"):
        with pytest.raises(KeyError):
            invalidated_by(name, Outer)
    with pytest.raises(KeyError):
        invalidated_by("other.missing", Outer)


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("train.weight_decay", ("holdout_packed", "sft_packed", "packed", "control_pool")),
        ("train.epochs", ("packed",)),
        ("train.lora.rank", ("holdout_packed", "sft_packed", "packed", "control_pool")),
        ("teacher.model", ("labels", "instructions", "expanded", "generated")),
        ("judge.model", ("answers", "scored", "generated", "evaluation")),
        ("student.endpoint.model", ("scored", "evaluation")),
        ("student.endpoint.limits.in_flight", ()),
        ("curriculum.weights.Math", ("candidates",)),
        ("resources.student.replicas", ()),
    ],
)
def test_the_deepest_declaration_wins(name: str, outputs: tuple[str, ...]) -> None:
    assert invalidated_by(name, Config) == outputs


def test_only_keys_that_change_results_are_part_of_them() -> None:
    results = parse({**BASE, "teacher": {"engine_kwargs": {"swap_space": 1, "seed": 2}, "engine": "vllm"}}).results()
    left_out = {name for name in Config.model_fields if name not in results}
    speed = {"resources", "budget", "cache", "trackers", "max_error_rate"}
    assert left_out == {"name", "run_dir", "evaluate", "control", "regenerate"} | speed
    assert results["teacher"]["engine_kwargs"] == {"seed": 2}
    assert "batch" not in results["teacher"] and "select_share" in results["holdout"]
    assert parse({**BASE, "teacher": {"engine": "openai_batch"}}).results()["teacher"]["engine"] == "openai"
