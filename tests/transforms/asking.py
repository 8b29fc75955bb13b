"""Helpers for tests of the asking stages: rows, a config that points at a test endpoint, opened roles."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pyarrow as pa
import ray.data

from tapir_ray.config import Config, parse
from tapir_ray.data import schemas
from tapir_ray.llm.asker import AskRow
from tapir_ray.llm.budget.usage import Lease, Meter
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.roles import Roles


def config_for(url: str, **sections: Any) -> Config:
    """Returns a config whose teacher and judge are at `url`; `judge`, `teacher`, … add keys to their sections."""
    judge = {"same_as": "teacher", **sections.pop("judge", {})}
    teacher = {"model": "m", "base_url": url, "api_key_env": None, "max_attempts": 2, **sections.pop("teacher", {})}
    return parse(
        {
            "name": "test",
            "seed_data": {"path": "seed.jsonl"},
            "student": {"model": "m"},
            "teacher": teacher,
            "judge": judge,
            **sections,
        }
    )


def opened(config: Config, simulator_url: str | None = None) -> Roles:
    """Returns roles of a run of their own, for use in a `with`."""
    return Roles(config, f"test-{uuid.uuid4().hex[:8]}", simulator_url)


def instruction(text: str, **values: Any) -> dict[str, Any]:
    """Returns a row of one user turn with its id; its status is ok by default."""
    messages = [{"role": "user", "content": text}]
    return {
        "instruction_id": schemas.instruction_id(messages),
        "messages": messages,
        "task": "Math",
        "split": "seed",
        "status": "ok",
        **values,
    }


def dataset(rows: list[dict[str, Any]], schema: pa.Schema = schemas.SCORED) -> ray.data.Dataset:
    """Returns `rows` as a dataset of `schema`."""
    return ray.data.from_arrow(schemas.conform(rows, schema))


class LastRequests(Meter):
    """Grants leases for `requests` requests; then the budget is used up."""

    def __init__(self, requests: int) -> None:
        super().__init__()
        self.left = requests

    async def lease(
        self, role: str, input_tokens: int, output_tokens: int, lease_id: str | None = None
    ) -> Lease | None:
        self.left -= 1
        return await super().lease(role, input_tokens, output_tokens, lease_id) if self.left >= 0 else None


def directly(
    function: AskRow, rows: list[dict[str, Any]], config: Config, meter: Meter | None = None
) -> list[dict[str, Any]]:
    """Applies `function` to each row without Ray, for cases that need no pipeline; returns the rows in order."""

    async def main() -> list[dict[str, Any]]:
        endpoints = {"teacher": config.teacher, "judge": config.judge_endpoint}
        clients = {
            role: OpenAIClient(Target(role, endpoint, endpoint.base_url), meter or Meter())
            for role, endpoint in endpoints.items()
        }
        done = await asyncio.gather(*(function(clients, row) for row in rows))
        await asyncio.gather(*(client.close() for client in clients.values()))
        return list(done)

    return asyncio.run(main())
