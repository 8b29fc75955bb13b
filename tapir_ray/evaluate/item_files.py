"""Files of a benchmark's items, given by a path in the config: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tapir_ray.data.readers import read_raw
from tapir_ray.data.storage import is_remote
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError


def read_items(path: str | None, key: str, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (place, row) of a JSON, JSON lines or Parquet file, also compressed, on a disk or a bucket.

    `source` says where the public file can be had. Raises InputError, which names `key`, for a missing path or file and
    for a row that is not a JSON object.
    """
    if path is None:
        raise InputError(f"{key} is missing: give the path of {source}")
    if not is_remote(path) and not Path(path).is_file():
        raise InputError(f"{key} {path} is not a file: give the path of {source}")
    for place, row in read_raw(path):
        if isinstance(row, Exception):
            raise InputError(f"{key} {place}: {one_line(row)}") from row
        if not isinstance(row, dict):
            raise InputError(f"{key} {place} is not a JSON object: give the path of {source}")
        yield place, row


def text_of_field(row: dict[str, Any], name: str, place: str, key: str) -> str:
    """Returns a text of a row. Raises InputError for another value, an empty text, and a missing field."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{key} {place}: {name} must be a text, and it is {one_line(repr(value))[:80]}")
    return value


class Distinct:
    """The items of a file that were read so far, to refuse one that comes twice: its answers would count twice."""

    def __init__(self, key: str, name: str) -> None:
        """Takes the config key of the file and the name of the repeated part, such as `prompt`, for the message."""
        self._key, self._name = key, name
        self._places: dict[str, str] = {}

    def add(self, item: str, place: str) -> None:
        """Keeps the place of an item. Raises InputError for an item that is there already."""
        if item in self._places:
            raise InputError(f"{self._key} {place} has the {self._name} of {self._places[item]}: take one of them out")
        self._places[item] = place
