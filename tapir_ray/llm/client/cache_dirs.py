"""Folders of a run for cached replies and for records of batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tapir_ray.config import Cache
from tapir_ray.data.storage import Storage, uri_in


class ReplyFolders:
    """URIs `cache` and `batches`; None if replies or batches are not kept."""

    def __init__(self, config: Cache, run: str | None) -> None:
        """Uses folders of the run at the URI `run`; replies are stored in `config.dir` if that is set."""
        own = None if run is None else uri_in(run, "cache")
        self.cache = (config.dir or own) if config.enabled else None
        self.batches = None if run is None else uri_in(run, "batches")
        self._shared = config.dir is not None
        self._apart: list[str] = []

    @contextmanager
    def kept_apart(self, name: str) -> Iterator[None]:
        """Context manager in which pipelines use subfolders NAME, which `forget` empties.

        For a step of many pipelines, because every worker reads all replies in its folder at its start. A folder given
        as `cache.dir` is shared with other runs and does not change.
        """
        before = self.cache, self.batches
        if self.cache is not None and not self._shared:
            self.cache = uri_in(self.cache, name)
        if self.batches is not None:
            self.batches = uri_in(self.batches, name)
        now = self.cache, self.batches
        self._apart = [uri for uri, old in zip(now, before, strict=True) if uri is not None and uri != old]
        try:
            yield
        finally:
            (self.cache, self.batches), self._apart = before, []

    def forget(self) -> None:
        """Deletes the content of the subfolders of `kept_apart`. Its rows must be on storage."""
        for storage in map(Storage.at, self._apart):
            storage.fs.delete_dir_contents(storage.root, missing_dir_ok=True)
