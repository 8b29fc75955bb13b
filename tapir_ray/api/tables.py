"""Tables of a run as Arrow, pandas, Hugging Face or Ray Data.

table = tapir.Run.open("runs/mine").table("scored", round=1)
table.to_pandas(["task", "difficulty"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs

from tapir_ray.errors import InputError
from tapir_ray.run.layout import DATASET, DATASET_ROWS, Layout, LoopLayout
from tapir_ray.run.run import Run

if TYPE_CHECKING:
    import datasets
    import pandas
    import ray.data


class Table:
    """A finished table of a run. Nothing is read before one of the methods is called."""

    def __init__(self, path: str, files: Sequence[str], fs: pafs.FileSystem, uris: Sequence[str]) -> None:
        self.path = path
        """Path in the run, such as `rounds/01/scored`."""
        self.files = list(uris)
        """Paths or URIs of its Parquet files."""
        self._files, self._fs = list(files), fs

    def __repr__(self) -> str:
        return f"Table({self.path!r}, {len(self)} rows)"

    def __len__(self) -> int:
        return int(self._dataset().count_rows()) if self._files else 0

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._dataset().schema.names) if self._files else []

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns all rows, or some of their columns, as an Arrow table in memory."""
        if not self._files:
            return pa.table({})
        return self._dataset().to_table(columns=None if columns is None else list(columns))

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """Returns all rows, or some of their columns, as a pandas frame in memory."""
        return self.to_arrow(columns).to_pandas()

    def to_hf(self, columns: Sequence[str] | None = None) -> datasets.Dataset:
        """Returns all rows, or some of their columns, as a Hugging Face `Dataset` in memory."""
        import datasets

        return datasets.Dataset(self.to_arrow(columns))

    def to_ray(self, columns: Sequence[str] | None = None) -> ray.data.Dataset:
        """Returns the rows as a lazy Ray Dataset; Ray starts if it is not initialised. Raises InputError without rows.

        Suits tables that do not fit into memory.
        """
        if not self._files:
            raise InputError(f"{self.path} has no rows")
        import ray.data

        # Ray's default takes folders such as `a=b` in the path of a run for columns.
        chosen = None if columns is None else list(columns)
        return ray.data.read_parquet(self._files, filesystem=self._fs, columns=chosen, partitioning=None)

    def _dataset(self) -> Any:
        return pads.dataset(self._files, filesystem=self._fs, format="parquet")


def table_of(run: Run, layout: Layout, name: str, round_number: int | None) -> Table:
    """Returns a finished table of a run by its field in the layout and round, or by its path.

    Raises InputError that lists the finished tables if there is none.
    """
    if name == DATASET and run.children(DATASET_ROWS):
        names = [f"{DATASET_ROWS}/{file}" for file in run.children(DATASET_ROWS) if file.endswith(".parquet")]
        return Table(DATASET, [run.path(file) for file in names], run.fs, [run.uri_of(file) for file in names])
    path = _path(layout, name, round_number)
    manifest = run.done(path)
    if manifest is None or (not manifest.files and manifest.rows):
        of_round = "" if round_number is None else f" of round {round_number}"
        found = ", ".join(finished(run, layout)) or "none"
        raise InputError(f"{run.uri} has no finished table {name}{of_round}; its finished tables are {found}")
    files = [f"{path}/{file}" for file in manifest.files]
    return Table(path, [run.path(file) for file in files], run.fs, [run.uri_of(file) for file in files])


def finished(run: Run, layout: Layout) -> list[str]:
    """Returns the paths of the finished tables with rows, in the order of their making."""
    found = []
    for table in layout.all():
        # A table of a shard has `*` in its path.
        folder, star, rest = table.path.partition("/*/")
        paths = [f"{folder}/{child}/{rest}" for child in run.children(folder)] if star else [table.path]
        found += [path for path in paths if (manifest := run.done(path)) is not None and manifest.files]
    return found


def _path(layout: Layout, name: str, round_number: int | None) -> str:
    """Returns the path of a table. Raises InputError if a round must be given, or has no effect."""
    if "/" in name:
        if round_number is not None:
            raise InputError(f"round has no effect on the path {name}: leave it out")
        return name
    by_round = {}
    if isinstance(layout, LoopLayout):
        by_round = {number: getattr(one, name, None) for number, one in enumerate(layout.rounds, start=1)}
        by_round = {number: getattr(table, "path", None) for number, table in by_round.items()}
        by_round = {number: path for number, path in by_round.items() if path is not None}
    if by_round:
        if round_number is None:
            raise InputError(f"{name} is a table of each round: give round, 1 to {len(layout.rounds)}")  # type: ignore[attr-defined]
        if round_number not in by_round:
            raise InputError(f"round {round_number} is not a round of the run, which has {len(by_round)}")
        return str(by_round[round_number])
    named = layout.named(name)
    if not named:
        names = dict.fromkeys(known for known, _ in layout.items())
        raise InputError(f"{name} is not a table of this run: its tables are {', '.join(names)}")
    if round_number is not None:
        raise InputError(f"{name} is no table of a round: leave round out")
    return named[0].path
