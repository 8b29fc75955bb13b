"""Rows kept as an engine finishes them one by one, though its pipeline passes on whole blocks.

kept = AnswerLog(folder, fs, schema, ("instruction_id",), 64)
row = kept.found(row) or answer(row)   # what an engine that died had finished is not asked again
kept.write(kept.add(row))              # a part once there are 64
kept.write(kept.rest())                # the engine has nothing in hand
"""

from __future__ import annotations

import functools
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tapir_ray.data.schemas import conform
from tapir_ray.run import blocks


class AnswerLog:
    """The finished rows of one engine, in parts of `rows_per_block`: fewer than that are lost where it is killed.

    What the folder holds when an engine starts is what engines before it have finished. `write` may run in a thread of
    its own; the rest belongs to the thread that asks.
    """

    def __init__(
        self, folder: str, fs: pafs.FileSystem, schema: pa.Schema, key: blocks.Key, rows_per_block: int
    ) -> None:
        self.folder, self.fs, self.schema, self.key, self.rows_per_block = folder, fs, schema, key, rows_per_block
        self._file_of = blocks.files_of(folder, fs, key)
        self._rows_of = functools.lru_cache(maxsize=32)(self._read)
        self._waiting: list[dict[str, Any]] = []

    def found(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """The finished row with this row's key, where an engine before this one has finished it."""
        key = blocks.key_of(row, self.key)
        file = self._file_of.get(key)
        return None if file is None else self._rows_of(file)[key]

    def add(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """A row is finished; returns the rows that are to be written now, often none."""
        self._waiting.append(row)
        return self.rest() if len(self._waiting) >= self.rows_per_block else []

    def rest(self) -> list[dict[str, Any]]:
        """The rows that waited to be written, which the caller now writes."""
        rows, self._waiting = self._waiting, []
        return rows

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write rows as one part."""
        if rows:
            blocks.write_block(conform(rows, self.schema), self.folder, self.fs, self.key)

    def _read(self, file: str) -> dict[str, dict[str, Any]]:
        rows = pq.read_table(f"{self.folder}/{file}", filesystem=self.fs).to_pylist()
        return {blocks.key_of(row, self.key): row for row in rows}
