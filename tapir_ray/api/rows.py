"""Rows as a program has them: a path, a list of dicts, an Arrow table, a pandas frame, an HF or a Ray Dataset.

table = arrow_of(datasets.load_dataset("tatsu-lab/alpaca", split="train"))
conversations(table.to_pylist())[0]["messages"]
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from tapir_ray.config import SeedData
from tapir_ray.data.files import list_files
from tapir_ray.data.readers import read_raw
from tapir_ray.data.schemas import OK
from tapir_ray.errors import InputError
from tapir_ray.transforms.ingest import parsed_rows

if TYPE_CHECKING:
    import datasets
    import pandas
    import ray.data

# A text, since the packages are imported only by callers that have such rows.
Rows: TypeAlias = (
    "str | os.PathLike[str] | Sequence[Mapping[str, Any]] | pa.Table | pandas.DataFrame | datasets.Dataset | "
    "ray.data.Dataset"
)
"""Rows as a program has them."""
STUDENT = "student_response"
"""Column with the answer of a student, for the judge; it is not read as the row's own answer."""


def arrow_of(rows: Rows) -> pa.Table:
    """Returns rows as an Arrow table in memory. Raises InputError for another kind of object."""
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, (str, os.PathLike)):
        return _table([_checked(row, place) for file in list_files(str(rows), "rows") for place, row in read_raw(file)])
    given: Any = rows
    if is_ray(given):
        import ray

        blocks = [block for block in ray.get(given.to_arrow_refs()) if len(block)]
        return pa.concat_tables(blocks, promote_options="default") if blocks else pa.table({})
    if _is(given, "datasets", "Dataset"):
        # `with_format` drops a format that would hide columns; `flatten_indices` applies a selection or shuffle.
        plain = given.with_format(None)
        return (plain if plain._indices is None else plain.flatten_indices()).data.table
    if _is(given, "pandas", "DataFrame"):
        return pa.Table.from_pandas(given, preserve_index=False)
    if isinstance(given, Iterable) and not isinstance(given, Mapping):
        return _table([_checked(row, f"row {number}") for number, row in enumerate(given, start=1)])
    raise InputError(
        f"rows are a {type(rows).__name__}: give a path, a list of dicts, an Arrow table, a pandas frame, or a dataset "
        "of Hugging Face or Ray (one split)"
    )


def is_ray(rows: Any) -> bool:
    """Whether rows are a Ray Dataset."""
    return _is(rows, "ray", "Dataset")


def conversations(table: pa.Table) -> list[dict[str, Any]]:
    """Returns each row as a conversation with `messages`, `response` and `instruction_id`, in the same order.

    Columns are read as those of the seed data (docs/data.md). Raises InputError for a row that cannot be read.
    """
    settings, found = SeedData(), []
    for number, row in enumerate(table.to_pylist(), start=1):
        given = {key: value for key, value in row.items() if value is not None and key != STUDENT}
        (read,) = parsed_rows(given, f"row {number}", settings)
        if read["status"] != OK:
            raise InputError(f"rows cannot be read: {read['reason']}")
        found.append(read)
    return found


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema=None) if not rows else _of_all_keys(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"rows have a column with values of several types: {error}") from error


def _of_all_keys(rows: list[dict[str, Any]]) -> pa.Table:
    """Returns the rows with every key of any of them; Arrow would take those of the first row alone."""
    names = dict.fromkeys(key for row in rows for key in row)
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _checked(row: Any, place: str) -> dict[str, Any]:
    if isinstance(row, Exception):
        raise InputError(f"rows cannot be read: {place}: {row}")
    if not isinstance(row, Mapping):
        raise InputError(f"{place} is a {type(row).__name__}: each row must be a mapping of columns to values")
    return dict(row)


def _is(value: Any, package: str, name: str) -> bool:
    """Whether a value is of a class of a package, without importing it."""
    return any(kind.__module__.partition(".")[0] == package and kind.__name__ == name for kind in type(value).__mro__)
