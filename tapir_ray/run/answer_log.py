"""Log of the rows that an engine finishes, stored one by one although its pipeline passes on whole blocks.

kept = AnswerLog(folder, fs, schema, ("instruction_id",), 64)
row = kept.found(row) or answer(row)   # rows that a dead engine had finished are not asked again
kept.write(kept.add(row))              # writes a block once there are 64 rows
kept.write(kept.rest())                # writes the others when the engine is idle
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
    """Finished rows of one engine in blocks of `rows_per_block`. A killed engine loses fewer rows than that.

    At the start, the folder holds the rows that earlier engines have finished. `write` may run in another thread; all
    other methods belong to the thread of the engine.
    """

    def __init__(
        self, folder: str, fs: pafs.FileSystem, schema: pa.Schema, key: blocks.Key, rows_per_block: int
    ) -> None:
        self.folder, self.fs, self.schema, self.key, self.rows_per_block = folder, fs, schema, key, rows_per_block
        self._file_of = blocks.files_of(folder, fs, key)
        # A few blocks at a time: the log of a whole table may not fit into memory.
        self._rows_of = functools.lru_cache(maxsize=32)(self._read)
        self._waiting: list[dict[str, Any]] = []

    def found(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the finished row with the key of this row; None if no earlier engine has finished it."""
        key = blocks.key_of(row, self.key)
        file = self._file_of.get(key)
        return None if file is None else self._rows_of(file)[key]

    def add(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Adds a finished row. Returns the rows that the caller has to write now, often none."""
        self._waiting.append(row)
        return self.rest() if len(self._waiting) >= self.rows_per_block else []

    def rest(self) -> list[dict[str, Any]]:
        """Returns the rows that are not written yet. The caller has to write them."""
        rows, self._waiting = self._waiting, []
        return rows

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Writes rows as one block."""
        if rows:
            blocks.write_block(conform(rows, self.schema), self.folder, self.fs, self.key)

    def _read(self, file: str) -> dict[str, dict[str, Any]]:
        rows = pq.read_table(f"{self.folder}/{file}", filesystem=self.fs).to_pylist()
        return {blocks.key_of(row, self.key): row for row in rows}
