"""The forecast of the student's own work: samples and losses of the difficulty measure."""

from __future__ import annotations

from typing import Any

import pytest

from tapir_ray.config import Config, parse
from tapir_ray.cost.seed_sample import Seed
from tapir_ray.cost.student_work import student_work


class Held(Seed):
    """Seed data with a given holdout."""

    def held_out(self, config: Config) -> dict[str, int]:
        return {"all": 20}


def forecast(**difficulty: Any) -> dict[str, Any] | None:
    config = parse(
        {
            "name": "x",
            "seed_data": {"path": "a.jsonl"},
            "student": {"model": "m", "sampling": {"max_tokens": 10}},
            "curriculum": {"rounds": 2, "difficulty": difficulty},
            "score": {"max_rows": 130},
            "expand": {"size": 50},
        }
    )
    return student_work(config, Held(usable=120))


@pytest.mark.parametrize(
    ("rules", "answers", "samples", "losses"),
    [
        ({"measure": "mfd"}, 290, 0, 0),
        ({"measure": "frontier", "top_fraction": 0.3}, 290, 1840, 0),
        ({"measure": "frontier", "top_fraction": 0.3, "samples": 4}, 290, 920, 0),
        ({"measure": "ifd", "top_fraction": 0.3}, 0, 0, 230),
        ({"select": "none"}, 60, 0, 0),
    ],
)
def test_the_students_work_worked_by_hand(rules: dict[str, Any], answers: int, samples: int, losses: int) -> None:
    """Round 1 has 100 candidates, round 2 the 130 of score.max_rows, and the holdout of 20 is answered three times."""
    found = forecast(**rules)
    tokens = 10 * (answers + samples)
    assert found == {"answers": answers, "samples": samples, "tokens_at_most": tokens, "losses": losses}
