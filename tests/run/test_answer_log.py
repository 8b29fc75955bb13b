"""The answer log: rows that an engine has finished, stored before its pipeline passes them on."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from tapir_ray.config import Replicas
from tapir_ray.data.schemas import ID, SCORED, conform
from tapir_ray.llm.engine.worker import Asking, Keeping, collect, threads
from tapir_ray.run import blocks
from tapir_ray.run.answer_log import AnswerLog
from tapir_ray.run.resume import resume_table

LOCAL = pafs.LocalFileSystem()


def kept_in(folder: Path, rows_per_block: int = 4) -> AnswerLog:
    return AnswerLog(str(folder), LOCAL, SCORED, ID, rows_per_block)


def answered(row_id: int, status: str = "ok") -> dict[str, Any]:
    answer = {"student_response": f"said {row_id}", "finish_reason": "stop", "status": status}
    return {"instruction_id": str(row_id), **answer}


def ids_in(folder: Path) -> list[int]:
    return sorted(int(i) for f in folder.glob("block-*") for i in pq.read_table(f)["instruction_id"].to_pylist())


def test_at_most_the_rows_of_one_unwritten_block_are_lost(tmp_path: Path) -> None:
    kept = kept_in(tmp_path)
    for n in range(11):
        kept.write(kept.add(answered(n)))
    assert ids_in(tmp_path) == list(range(8))
    kept.write(kept.rest())
    assert ids_in(tmp_path) == list(range(11)) and len(list(tmp_path.iterdir())) == 3


def test_a_later_engine_finds_answered_rows_and_no_failed_ones(tmp_path: Path) -> None:
    kept_in(tmp_path).write([answered(1), answered(2, "failed"), answered(3, "filtered")])
    later = kept_in(tmp_path)
    found = later.found({"instruction_id": "1"})
    assert found is not None and found["student_response"] == "said 1"
    assert later.found({"instruction_id": "2"}) is None
    assert later.found({"instruction_id": "3"}) is not None
    assert later.found({"instruction_id": "4"}) is None


def test_a_row_stored_twice_is_read_once(tmp_path: Path, ray_local: None) -> None:
    """An engine was lost with its node, and another one without its answers generated them again."""
    for row_ids in ((1, 2, 3), (3, 4), (2,)):
        blocks.write_block(conform([answered(n) for n in row_ids], SCORED), str(tmp_path), LOCAL, ID)
    count, _ = resume_table(str(tmp_path), LOCAL, ID)
    assert count == 4 and ids_in(tmp_path) == [1, 2, 3, 4]


class Llm:
    """vLLM's engine as Ray's worker holds it; `errored` tells that its process has died."""

    def __init__(self) -> None:
        self.engine = SimpleNamespace(errored=False)
        self.asked: list[str] = []

    async def generate_async(self, row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], float]:
        if self.engine.errored:
            raise asyncio.CancelledError("gone")
        assert row["sampling_params"]["output_kind"].name == "FINAL_ONLY"
        self.asked.append(row["instruction_id"])
        return row, {"generated_text": f"said {row['instruction_id']}", "num_generated_tokens": 7}, 0.0


class Engine:
    """Ray's engine worker with the interface used by the mixin."""

    IDX_IN_BATCH_COLUMN = "__idx_in_batch"

    def __init__(self, engine_kwargs: dict[str, Any]) -> None:
        self.arguments, self.llm = engine_kwargs, Llm()

    async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        for row in reversed(batch):
            _, output, _ = await self.llm.generate_async(row)
            yield {
                "__idx_in_batch": row["__idx_in_batch"],
                "generated_text": output["generated_text"],
                "generated_tokens": [5] * 7,
                "__inference_error__": "",
            }


class KeepingEngine(Keeping, Asking, Engine):
    pass


def engine_in(folder: Path, **engine_kwargs: Any) -> KeepingEngine:
    return KeepingEngine(
        keep=lambda: kept_in(folder),
        collect=functools.partial(collect, columns=["instruction_id", "status", "reason"]),
        replicas=Replicas(gpus=1),
        engine_kwargs=engine_kwargs,
    )


def batch(row_ids: range) -> list[dict[str, Any]]:
    made = {"unasked": "", "samples": 0, "max_tokens": 8, "stop_token_ids": [1], "status": "ok", "reason": None}
    return [
        {"instruction_id": str(n), "__idx_in_batch": i, "sampling_params": {}, **made} for i, n in enumerate(row_ids)
    ]


def test_an_engine_killed_within_a_batch_leaves_its_finished_rows(tmp_path: Path) -> None:
    """The next engine generates only the rest of the batch, and returns every row of it."""

    async def killed() -> None:
        finished = 0
        async for _ in engine_in(tmp_path).udf(batch(range(10))):
            finished += 1
            if finished == 7:
                return

    async def whole(engine: KeepingEngine) -> dict[int, str]:
        return {row["__idx_in_batch"]: row["generated_text"] async for row in engine.udf(batch(range(10)))}

    asyncio.run(killed())
    assert ids_in(tmp_path) == [6, 7, 8, 9]
    later = engine_in(tmp_path)
    assert asyncio.run(whole(later)) == {n: f"said {n}" for n in range(10)}
    assert sorted(later.llm.asked) == [str(n) for n in range(6)]
    assert ids_in(tmp_path) == list(range(10))


def test_a_worker_ends_with_its_engine_and_logs_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine ended its requests by CancelledError, which Ray does not count as an error of the engine."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    engine = engine_in(tmp_path)
    engine.llm.engine.errored = True

    async def asked() -> None:
        async for _ in engine.udf(batch(range(3))):
            raise AssertionError("a dead engine has answered")

    with pytest.raises(SystemExit, match="1"):
        asyncio.run(asked())
    assert "the engine is dead: CancelledError: gone" in caplog.text


def test_an_engine_has_vllms_own_batch_sizes_unless_they_are_configured(tmp_path: Path) -> None:
    """The defaults of Ray's engines are much smaller: 2,048 tokens a step, 128 sequences."""
    arguments = engine_in(tmp_path, max_num_seqs=16).arguments
    assert arguments["max_num_seqs"] == 16 and arguments["max_num_batched_tokens"] >= 4096
    # vLLM refuses more sequences than tokens a step.
    assert engine_in(tmp_path, max_num_batched_tokens=100).arguments["max_num_seqs"] == 100


@pytest.mark.parametrize(
    ("engines", "claimed", "node_cpus", "share"),
    [(1, 1, 4, 8), (2, 2, 4, 4), (2, 4, 4, 8), (4, 1, 4, 2), (9, 0.5, 4, 1), (1, 8, 4, 8)],
)
def test_engines_on_one_node_share_its_cores(engines: int, claimed: float, node_cpus: float, share: int) -> None:
    assert threads(Replicas(replicas=engines, cpus=claimed), node_cpus, cores=8) == share
