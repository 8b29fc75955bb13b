"""The asking stages in one lazy pipeline against the simulator: every stage can read its replies."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tapir_ray.config import Curriculum
from tapir_ray.curriculum.tasks import load
from tapir_ray.data import schemas
from tapir_ray.simulator import Options, running
from tapir_ray.simulator.seed import seed_rows
from tapir_ray.transforms.expand import expand
from tapir_ray.transforms.judge import judge
from tapir_ray.transforms.label import label
from tapir_ray.transforms.respond import respond
from tests.transforms.asking import config_for, dataset, instruction, opened


def _copy_the_teacher(batch: pa.Table) -> pa.Table:
    rows = [row | {"student_response": row["response"]} for row in batch.to_pylist()]
    return schemas.conform(rows, schemas.SCORED)


@pytest.mark.slow
def test_label_expand_respond_and_judge_in_one_pipeline(ray_local: None) -> None:
    taxonomy = load(Curriculum())
    draws = [
        instruction(row["instruction"], draw_id=f"draw-{number}", parent_id=f"parent-{number}", round=1, task=None)
        for number, row in enumerate(seed_rows(60, 5))
    ]
    with running(Options(seed=1)) as url:
        config = config_for("simulator", simulator={}, judge={"repeat_share": 0.0})
        with opened(config, url) as roles:
            roles.check()
            rows = label(
                dataset(draws, schemas.GENERATED_ROWS), config, roles, taxonomy.labels, schema=schemas.GENERATED_ROWS
            )
            rows = respond(expand(rows, config, roles), config, roles, taxonomy.styles)
            rows = rows.map_batches(_copy_the_teacher, batch_format="pyarrow", batch_size=None, num_cpus=0.1)
            scored = judge(rows, config, roles, 0).take_all()
            usage = roles.usage()
    assert len(scored) == 60 and {row["parent_id"] for row in scored} == {row["parent_id"] for row in draws}
    good = [row for row in scored if row["status"] == "ok"]
    assert len(good) >= 57, [(row["status"], row["reason"]) for row in scored if row["status"] != "ok"]
    assert {row["task"] for row in good} <= set(taxonomy.labels) and len({row["task"] for row in good}) >= 3
    assert all(row["teacher_score"] == row["student_score"] >= 9 for row in good)
    assert usage["judge"]["requests"] == 2 * len(good) and usage["teacher"]["failed"] == 0
