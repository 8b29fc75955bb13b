"""Client of a provider's batch API: half the price for replies within a day.

    client = BatchClient(target, meter, f"{run.uri}/batches", cache=cache)
    reply = await client.chat(messages, seed=7, kind="respond")        # waits until its batch is done

Calls that wait at the same time become one file and one batch, named by a hash of its requests. The batch is recorded
on the run's storage before it is created, and again with its id. A restarted run finds it by this record or by the
metadata at the provider, and does not submit it again. Finished requests of an expired batch are kept; only the others
are sent again.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import openai

from tapir_ray.data.schemas import BUDGET_USED_UP, FAILED
from tapir_ray.data.storage import Storage
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.batch_lines import LineError, body_of, line_of, results_in
from tapir_ray.llm.client.client import FIRST_BACKOFF_S, LONGEST_BACKOFF_S
from tapir_ray.llm.client.concurrency import InFlight
from tapir_ray.llm.client.openai import OpenAIClient, headers
from tapir_ray.llm.client.reply import Reply
from tapir_ray.llm.client.request import request_key
from tapir_ray.llm.client.target import Target

ENDED = ("completed", "expired", "cancelled", "failed")
MARK = "tapir"
"""Key in the metadata of a batch for the hash of its requests."""
FORGOTTEN = "is treated as absent: if its batch was sent, its requests may be sent and paid for again"
"""End of the warning about a record that is empty or torn."""
REJECTED = "rejected"
"""Folder next to the records with an empty file for each request whose reply could not be used."""
LONGEST_S = 26 * 3600.0
"""Seconds for which calls about a paid batch are repeated: the 24 hours of its window, and two more."""
UPLOAD_S = 1800.0
"""Seconds for which an upload is tried. Shorter, since nothing is paid for yet."""


@dataclass
class Submitted:
    """A batch at the provider: its requests, and the calls that wait for their results."""

    name: str
    requests: list[str]
    batch: str | None = None
    waiting: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] | None = None
    polling: asyncio.Task[None] | None = None


class BatchClient(OpenAIClient):
    """Client that collects the chat requests of one role into batches. Belongs to the event loop of its first use."""

    def __init__(self, target: Target, meter: Meter, folder: str | None = None, **shared: Any) -> None:
        """Records batches in `folder` (a path or URI; None keeps no record). `shared` as in Client."""
        settings = target.endpoint.batch
        super().__init__(target, meter, **{**shared, "in_flight": InFlight(settings.size)})
        self._timeout_s = None
        self._settings = settings
        self._storage = None if folder is None else Storage.at(folder)
        self._window: dict[str, tuple[dict[str, Any], asyncio.Future[Any]]] = {}
        self._window_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: dict[str, Submitted] = {}
        """Batches of earlier attempts, by the key of each request whose result is not used yet."""
        rejected = set() if self._storage is None else set(self._storage.children(REJECTED))
        for record in self._records():
            submitted = Submitted(record["name"], record["requests"], record["batch"])
            self._known.update(dict.fromkeys(set(submitted.requests) - rejected, submitted))

    def reject(self, reply: Reply) -> None:
        """Rejects a reply that could not be used: neither the cache nor its batch returns it again."""
        super().reject(reply)
        if reply.key is not None:
            self._not_again(reply.key)

    def _not_again(self, key: str) -> None:
        if self._storage is not None:
            with suppress(OSError):
                self._storage.write_text(f"{REJECTED}/{key}", "")

    async def _ask(self, body: dict[str, Any], kind: str) -> Reply:
        reply = await super()._ask(body, kind)
        if reply.status == FAILED and reply.reason != BUDGET_USED_UP:
            # The next attempt of the row sends a new request: its result in the batch would fail again.
            await asyncio.to_thread(self._not_again, request_key(self.target.scope, body))
        return reply

    def _lease_id(self, body: dict[str, Any]) -> str:
        return f"batch-{request_key(self.target.scope, body)}"

    async def generate(self, body: dict[str, Any]) -> Any:
        """Returns the JSON of a chat completion. Raises LineError for a request that failed in its batch."""
        key = request_key(self.target.scope, body)
        earlier = self._known.pop(key, None)
        if earlier is not None:
            return await self._wait_for(earlier, key, body)
        waiting = self._window.get(key)
        if waiting is None:
            size = len(line_of(key, body))
            if size > self._settings.max_bytes:
                raise LineError(
                    f"request_too_large: it needs {size:,} bytes in a batch, and batch.max_bytes is "
                    f"{self._settings.max_bytes:,}",
                    again=False,
                )
            if self._window_bytes + size > self._settings.max_bytes:
                self._close_window()
            self._window_bytes += size
            waiting = self._window[key] = (body, asyncio.get_running_loop().create_future())
            if self._timer is not None:
                self._timer.cancel()
            if len(self._window) >= min(self._settings.size, self._settings.max_requests):
                self._close_window()
            else:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._settings.window_s, self._close_window)
        # Shielded: other calls may wait for the same request.
        return await asyncio.shield(waiting[1])

    async def _wait_for(self, submitted: Submitted, key: str, body: dict[str, Any]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        submitted.waiting[key] = future
        if submitted.polling is None:
            submitted.polling = self._background(self._collect(submitted))
        elif submitted.results is not None:
            self._serve(submitted)
        return await future

    def _close_window(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        asked, self._window, self._window_bytes, self._timer = self._window, {}, 0, None
        if asked:
            self._background(self._submit(asked))

    def _background(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)
        return task

    async def _submit(self, asked: dict[str, tuple[dict[str, Any], asyncio.Future[Any]]]) -> None:
        name = hashlib.blake2b("\n".join(sorted(asked)).encode(), digest_size=16).hexdigest()
        submitted = Submitted(name, sorted(asked), waiting={key: future for key, (_, future) in asked.items()})
        try:
            await self._patiently(lambda: self._record(submitted), UPLOAD_S)
            content = b"".join(line_of(key, body) for key, (body, _) in asked.items())
            extra: Any = {"extra_headers": headers(self.target)}
            file = await self._patiently(
                lambda: self._openai.files.create(file=(f"tapir-{name}.jsonl", content), purpose="batch", **extra),
                UPLOAD_S,
            )

            async def create(again: bool) -> str:
                # The first call may have created the batch although its reply was lost: do not pay for a second one.
                if again and (found := await self._find(name)) is not None:
                    return found
                batch = await self._openai.batches.create(
                    input_file_id=file.id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={MARK: name},
                    **extra,
                )
                return batch.id

            tried = itertools.count()
            submitted.batch = await self._patiently(lambda: create(next(tried) > 0))
            with suppress(OSError):  # without the id, the batch is found by its name in the metadata
                await self._record(submitted)
        except Exception as error:
            _fail(submitted, error)
            return
        await self._collect(submitted)

    async def _collect(self, submitted: Submitted) -> None:
        """Polls until the batch has ended, then gives every waiting request its result."""
        extra: Any = {"extra_headers": headers(self.target)}
        try:
            if submitted.batch is None:
                submitted.batch = await self._patiently(lambda: self._find(submitted.name))
            if submitted.batch is None:
                submitted.results = {}
            else:
                batch_id = submitted.batch
                while True:
                    batch = await self._patiently(lambda: self._openai.batches.retrieve(batch_id, **extra))
                    if batch.status in ENDED:
                        break
                    await asyncio.sleep(self._settings.poll_s)
                if batch.status == "failed":
                    await self._forget(submitted)
                    problems = [error.message for error in (batch.errors and batch.errors.data) or []]
                    raise LineError(f"batch {batch.id} failed: {'; '.join(map(str, problems[:3]))}", again=False)
                results: dict[str, dict[str, Any]] = {}
                for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                    content = await self._patiently(lambda name=file_id: self._openai.files.content(name, **extra))
                    results.update(results_in(content.text))
                submitted.results = results
            self._serve(submitted)
        except openai.NotFoundError:
            # The provider has deleted the batch or its files: its requests are sent again.
            submitted.results = {}
            self._serve(submitted)
            await self._forget(submitted)
        except Exception as error:
            _fail(submitted, error)

    def _serve(self, submitted: Submitted) -> None:
        waiting, submitted.waiting = submitted.waiting, {}
        for key, future in waiting.items():
            if future.done():
                continue
            try:
                future.set_result(body_of((submitted.results or {}).get(key)))
            except LineError as error:
                future.set_exception(error)

    async def _find(self, name: str) -> str | None:
        """Returns the id of a batch by its name in the metadata; None if the provider has no such batch."""
        extra: Any = {"extra_headers": headers(self.target)}
        async for batch in self._openai.batches.list(limit=100, **extra):
            if (batch.metadata or {}).get(MARK) == name:
                return str(batch.id)
        return None

    async def _patiently(self, call: Any, seconds: float = LONGEST_S) -> Any:
        """Calls the provider until it succeeds or `seconds` have passed; permanent errors are raised at once.

        A batch that is paid for must not be lost, or paid for again, because its endpoint is down for an hour.
        """
        deadline = time.monotonic() + seconds
        for attempt in itertools.count():
            try:
                return await call()
            except (openai.APIError, OSError) as error:
                permanent = isinstance(error, openai.APIStatusError) and error.status_code in (400, 401, 403, 404)
                if permanent or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(attempt, 10)))

    def _records(self) -> list[dict[str, Any]]:
        if self._storage is None:
            return []
        names = [name for name in self._storage.children("") if name.endswith(".json")]
        found = []
        for name in names:
            record = self._storage.find_json(name, FORGOTTEN)
            if record is not None and record.keys() >= {"name", "requests", "batch"}:
                found.append(record)
            elif record is not None:
                self._storage.tell_torn(name, FORGOTTEN)
        # Records without an id come first, so that for one request a record with an id replaces them.
        return sorted(found, key=lambda record: record["batch"] is not None)

    async def _forget(self, submitted: Submitted) -> None:
        """Deletes the record of a batch without further results, so that the next attempt does not wait for it."""
        if self._storage is None:
            return
        with suppress(OSError):
            await asyncio.to_thread(self._storage.fs.delete_file, self._storage.path(f"{submitted.name}.json"))

    async def _record(self, submitted: Submitted) -> None:
        if self._storage is None:
            return
        record = {"name": submitted.name, "requests": submitted.requests, "batch": submitted.batch}
        await asyncio.to_thread(self._storage.write_json, f"{submitted.name}.json", record)


def _fail(submitted: Submitted, error: Exception) -> None:
    waiting, submitted.waiting, submitted.results = submitted.waiting, {}, {}
    for future in waiting.values():
        if not future.done():
            future.set_exception(error)
