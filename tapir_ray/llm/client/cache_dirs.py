"""Where the replies of a run and its records of batches lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tapir_ray.config import Cache
from tapir_ray.data.storage import Storage, uri_in


class ReplyFolders:
    """`cache` and `batches`: a URI each, or None where replies or batches are not kept."""

    def __init__(self, config: Cache, run: str | None) -> None:
        """Of the run stored at the URI `run`; replies lie in `config.dir` where that is set."""
        own = None if run is None else uri_in(run, "cache")
        self.cache = (config.dir or own) if config.enabled else None
        self.batches = None if run is None else uri_in(run, "batches")
        self._shared = config.dir is not None
        self._apart: list[str] = []

    @contextmanager
    def kept_apart(self, name: str) -> Iterator[None]:
        """Replies and records of batches of the pipelines made meanwhile lie in folders NAME, for `forget` to remove.

        For a step of many pipelines: every worker reads all replies in its folder. A `cache.dir` stays as it is.
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
        """Remove what is `kept_apart`: the rows that it was asked for are on storage."""
        for storage in map(Storage.at, self._apart):
            storage.fs.delete_dir_contents(storage.root, missing_dir_ok=True)
