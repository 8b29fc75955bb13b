"""Cache of paid replies by the content of their request: the same request costs nothing in this run or another.

    cache = Cache(f"{run.uri}/cache")                                   # reads the folder once
    reply, served = await cache.answer(request_key("", body), ask)      # calls ask() if no reply is stored
    cache.reject(reply)                                                 # never returned again
    await cache.flush()                                                 # returns once all is on storage

Only replies with a usable text are kept. Each worker adds immutable segments of lines `key TAB reply`; a line without a
reply deletes the key. The key is a hash of the body, which contains no API key and no header. The index takes about
200 bytes per reply. Up to HELD_BYTES of replies stay in memory; the others are read from their segment when needed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from tapir_ray.data.atomic_files import write_bytes
from tapir_ray.data.schemas import OK
from tapir_ray.data.storage import Storage
from tapir_ray.llm.client.reply import Reply

HELD_BYTES = 64 * 1024**2
"""Most bytes of replies that stay in memory after loading."""
FLUSH_REPLIES, FLUSH_S = 256, 1.0
"""Pending replies that start a write, and seconds after which they are written in any case."""
BETWEEN_WRITES_S = 0.1
"""Shortest time between two writes in seconds, so that blocks which end together share a segment."""
READERS = 16
"""Segments that are read at once: on object storage a small read is all latency."""
SUFFIX = ".replies"

_OFFSET_BITS, _LENGTH_BITS = 40, 24
"""Bits of the place of a line (segments up to 1 TiB, lines up to 16 MiB). An int takes less memory than a tuple."""
_KEPT = ("text", "reasoning", "finish_reason", "model", "input_tokens", "output_tokens")
_IF_ANY = "logprobs"
"""Field that few replies have; their lines alone contain it."""


class Cache:
    """Cache of one worker over a shared folder. Belongs to the event loop of its first use."""

    def __init__(self, uri: str) -> None:
        """Reads the segments in the folder. Raises InputError for a URI that is not a folder."""
        self._storage = Storage.at(uri)
        self._storage.fs.create_dir(self._storage.root, recursive=True)
        self._worker = uuid.uuid4().hex[:12]
        self._segments: list[str] = []
        self._index: dict[bytes, bytes | int] = {}
        """By key: the line of the reply, or its place as one number (segment, offset, length)."""
        self._pending: dict[str, bytes] = {}
        self._asking: dict[str, asyncio.Future[Reply]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writes = asyncio.Lock()
        self._next_write: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._written_at = 0.0
        self._held = 0
        self._load()

    def __len__(self) -> int:
        return len(self._index)

    async def answer(self, key: str, ask: Callable[[], Awaitable[Reply]]) -> tuple[Reply, bool]:
        """Returns (reply, whether it cost nothing).

        The reply is the stored one, that of an equal request in flight, or the result of `ask`. A reply that is not ok
        is passed to the equal requests that wait for it, but not stored.
        """
        under_way = self._asking.get(key)
        if under_way is not None:
            return await asyncio.shield(under_way), True
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asking[key] = future
        try:
            stored = await self._stored(key)
            reply = stored or replace(await ask(), key=key)
            if stored is None and reply.status == OK:
                self._put(key, _line(key, reply))
            future.set_result(reply)
            return reply, stored is not None
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # marks it as retrieved: without waiters asyncio would log it as forgotten
            raise
        finally:
            del self._asking[key]

    def reject(self, reply: Reply) -> None:
        """Deletes a reply whose text could not be used: the next equal request is sent again."""
        if reply.key is not None and self._index.pop(bytes.fromhex(reply.key), None) is not None:
            self._put(reply.key, f"{reply.key}\t\n".encode())

    async def flush(self) -> None:
        """Returns when every reply so far is on storage."""
        if self._next_write is None:
            if not self._pending and not self._writes.locked():
                return
            self._next_write = asyncio.create_task(self._write_next())
        await self._next_write

    def _put(self, key: str, line: bytes) -> None:
        self._pending[key] = line
        if len(line) > len(key) + 2:
            self._index[bytes.fromhex(key)] = line
        if len(self._pending) >= FLUSH_REPLIES:
            self._flush_in_background()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_in_background)

    def _flush_in_background(self) -> None:
        task = asyncio.create_task(self.flush())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_next(self) -> None:
        async with self._writes:
            await asyncio.sleep(self._written_at + BETWEEN_WRITES_S - time.monotonic())
            self._next_write = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            lines, self._pending = self._pending, {}
            if not lines:
                return
            name = f"{time.time_ns():020d}-{self._worker}{SUFFIX}"
            try:
                await asyncio.to_thread(self._write, name, b"".join(lines.values()))
            except OSError as error:
                # A full cache folder must not end the stage. The next write contains these lines too.
                logging.getLogger(__name__).warning("the cache %s cannot be written: %s", self._storage.uri, error)
                self._pending = {**lines, **self._pending}
                return
            finally:
                self._written_at = time.monotonic()
            self._segments.append(name)
            offset = 0
            for key, line in lines.items():
                # Written lines are replaced by their place, which frees their memory; a rejected one has no entry.
                if self._index.get(bytes.fromhex(key)) is line:
                    self._index[bytes.fromhex(key)] = self._place(len(self._segments) - 1, offset, len(line))
                offset += len(line)

    def _write(self, name: str, content: bytes) -> None:
        write_bytes(self._storage.fs, self._storage.path(name), content)

    def _load(self) -> None:
        names = [name for name in self._storage.children("") if name.endswith(SUFFIX)]
        with ThreadPoolExecutor(READERS) as pool:
            waiting = iter(names)
            # In groups, as `pool.map` over all names would hold every segment in memory at once.
            while batch := list(islice(waiting, READERS)):
                for name, content in zip(batch, pool.map(self._read, batch), strict=True):
                    self._segments.append(name)
                    for key, offset, line in _lines(content):
                        if len(line) <= len(key) * 2 + 2:
                            self._index.pop(key, None)
                            continue
                        self._held += len(line)
                        held = self._held <= HELD_BYTES
                        self._index[key] = line if held else self._place(len(self._segments) - 1, offset, len(line))

    def _read(self, name: str) -> bytes:
        with self._storage.fs.open_input_stream(self._storage.path(name)) as stream:
            return stream.read()

    @staticmethod
    def _place(segment: int, offset: int, length: int) -> int:
        return (segment << _OFFSET_BITS | offset) << _LENGTH_BITS | length

    async def _stored(self, key: str) -> Reply | None:
        found = self._index.get(bytes.fromhex(key))
        if found is None:
            return None
        try:
            line = found if isinstance(found, bytes) else await asyncio.to_thread(self._read_line, found)
            return _reply(key, line)
        except (OSError, ValueError, KeyError, TypeError):
            self._index.pop(bytes.fromhex(key), None)  # the segment was deleted or is torn
            return None

    def _read_line(self, place: int) -> bytes:
        length, place = place & ((1 << _LENGTH_BITS) - 1), place >> _LENGTH_BITS
        offset, segment = place & ((1 << _OFFSET_BITS) - 1), place >> _OFFSET_BITS
        with self._storage.fs.open_input_file(self._storage.path(self._segments[segment])) as file:
            file.seek(offset)
            return file.read(length)


def _line(key: str, reply: Reply) -> bytes:
    kept = {name: getattr(reply, name) for name in _KEPT}
    if reply.logprobs is not None:
        kept[_IF_ANY] = reply.logprobs
    return f"{key}\t{json.dumps(kept, ensure_ascii=False)}\n".encode()


def _reply(key: str, line: bytes) -> Reply:
    found, _, content = line.partition(b"\t")
    if found != key.encode() or not line.endswith(b"\n"):
        raise ValueError("not the line of this key")
    stored = json.loads(content)
    return Reply(**{name: stored[name] for name in _KEPT}, logprobs=stored.get(_IF_ANY), key=key)


def _lines(content: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Yields (key, offset, line) of a segment. Torn lines are left out."""
    offset = 0
    for line in content.splitlines(keepends=True):
        head, tab, _ = line.partition(b"\t")
        if tab and line.endswith(b"\n") and len(head) == 32:
            with suppress(ValueError):
                yield bytes.fromhex(head.decode()), offset, line
        offset += len(line)
