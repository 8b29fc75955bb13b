"""The worker of `Roles.ask`: runs an async function on all rows of a block at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pyarrow as pa

from tapir_ray.data import schemas
from tapir_ray.data.values import one_line
from tapir_ray.errors.redaction import redacted
from tapir_ray.llm.budget import usage
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.client import Client, slots
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.engine.registry import engine_class

Row = dict[str, Any]
AskRow = Callable[[Mapping[str, Client], Row], Awaitable[Row]]
"""A picklable async function of (clients by role, row) that returns the output row."""


class Asker:
    """Ray Data worker with an event loop in a background thread and one client for each role."""

    def __init__(
        self,
        function: AskRow,
        schema: pa.Schema,
        targets: list[Target],
        usage_actor: Any | None,
        leased: frozenset[str],
        workers: int,
        cache_dir: str | None = None,
        batch_dir: str | None = None,
    ) -> None:
        self._function = function
        self._schema = schema
        self._meter = usage.Meter(usage_actor, leased)
        self._cache = None if cache_dir is None else Cache(cache_dir)
        groups = {target.group: slots(target, workers) for target in targets}
        self._clients: dict[str, Client] = {}
        for target in targets:
            engine, in_flight = engine_class(target.endpoint.engine), groups[target.group]
            self._clients[target.role] = engine.client(target, self._meter, in_flight, self._cache, batch_dir)
        # One loop for all blocks: clients and meter belong to a loop, and Ray calls this object from several threads.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Returns the output rows of a block; called from several threads at once."""
        return asyncio.run_coroutine_threadsafe(self._ask(block.to_pylist()), self._loop).result()

    def __del__(self) -> None:
        # Ray Data has no hook for the end of a stage, it drops this object. Open connections would log warnings.
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=5)

    async def _close(self) -> None:
        if self._cache is not None:
            await self._cache.flush()
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    async def _ask(self, rows: list[Row]) -> pa.Table:
        answered = await asyncio.gather(*(self._ask_row(row) for row in rows))
        # Before the block is passed on: a row that is on storage must be in the usage and in the cache.
        await asyncio.gather(self._meter.flush(), *([self._cache.flush()] if self._cache else []))
        try:
            return schemas.conform(list(answered), self._schema)
        except (pa.ArrowException, TypeError, ValueError):
            # One row does not fit the schema: find it, so that the others are kept.
            tables = [self._conformed(row, out) for row, out in zip(rows, answered, strict=True)]
            return pa.concat_tables(tables)

    async def _ask_row(self, row: Row) -> Row:
        try:
            return await self._function(self._clients, dict(row))
        except Exception as error:
            return _failed(row, error)

    def _conformed(self, row: Row, answered: Row) -> pa.Table:
        try:
            return schemas.conform([answered], self._schema)
        except (pa.ArrowException, TypeError, ValueError) as error:
            return schemas.conform([_failed(row, error)], self._schema)


def _failed(row: Row, error: Exception) -> Row:
    """Returns the row with status `failed` and the error as its reason."""
    # Raised instead, one bad row would end a stage with thousands of rows that are paid for.
    reason = f"{type(error).__name__}: {redacted(one_line(error))[:500]}"
    return {**row, "status": schemas.FAILED, "reason": reason}
