"""Batch endpoints of the simulator: files, batches of chat requests, and batches that expire half-way.

    Batches(answer, batch_s=0.2, expire=1).add_to(app)      # /v1/files, /v1/batches

Files and batches are kept in memory and end with the server.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import web

Answer = Callable[[Any, str], tuple[int, dict[str, Any]]]
"""Answers a request: (body, batch id) gives (HTTP status, reply)."""


class Batches:
    """Files and batches by id."""

    def __init__(self, answer: Answer, batch_s: float, expire: int) -> None:
        """Each batch takes `batch_s` seconds; the first `expire` ones expire with half of their requests answered."""
        self._answer = answer
        self._batch_s = batch_s
        self._expire = expire
        self._files: dict[str, str] = {}
        self._batches: dict[str, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self.upload)
        app.router.add_get("/v1/files/{id}/content", self.content)
        app.router.add_post("/v1/batches", self.create)
        app.router.add_get("/v1/batches", self.list)
        app.router.add_get("/v1/batches/{id}", self.batch)

    async def upload(self, http: web.Request) -> web.Response:
        form = await http.post()
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, web.FileField) or purpose != "batch":
            return _bad("a file and the purpose `batch` are needed")
        text = file.file.read().decode()
        return web.json_response(self._file(text, file.filename))

    async def content(self, http: web.Request) -> web.Response:
        text = self._files.get(http.match_info["id"])
        return _bad("no such file", 404) if text is None else web.Response(text=text)

    async def create(self, http: web.Request) -> web.Response:
        asked = await http.json()
        if asked.get("endpoint") != "/v1/chat/completions" or asked.get("input_file_id") not in self._files:
            return _bad("a batch needs an uploaded input_file_id and the endpoint /v1/chat/completions")
        batch = {
            "id": f"batch_{uuid.uuid4().hex[:12]}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": asked.get("completion_window", "24h"),
            "status": "in_progress",
            "created_at": int(time.time()),
            "metadata": asked.get("metadata"),
            "output_file_id": None,
            "error_file_id": None,
        }
        self._batches[str(batch["id"])] = batch
        expires = self._expire >= len(self._batches)
        task = asyncio.create_task(self._work(batch, expires))
        # asyncio keeps only weak references: a task that nothing else refers to may be collected before it ends.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.json_response(batch)

    async def batch(self, http: web.Request) -> web.Response:
        batch = self._batches.get(http.match_info["id"])
        return _bad("no such batch", 404) if batch is None else web.json_response(batch)

    async def list(self, _: web.Request) -> web.Response:
        found = list(reversed(self._batches.values()))  # newest first, as OpenAI lists them
        return web.json_response({"object": "list", "data": found, "has_more": False})

    async def _work(self, batch: dict[str, Any], expires: bool) -> None:
        await asyncio.sleep(self._batch_s)
        lines = [json.loads(line) for line in self._files[batch["input_file_id"]].split("\n") if line]
        answered = lines[: len(lines) // 2] if expires else lines
        done: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for line in answered:
            status, body = self._answer(line["body"], batch["id"])
            reply = {"custom_id": line["custom_id"], "response": {"status_code": status, "body": body}, "error": None}
            (done if status == 200 else errors).append(reply)
        for line in lines[len(answered) :]:
            error = {"code": "batch_expired", "message": "this request could not be done before the batch expired"}
            errors.append({"custom_id": line["custom_id"], "response": None, "error": error})
        for key, found in (("output_file_id", done), ("error_file_id", errors)):
            if found:
                text = "".join(json.dumps(line) + "\n" for line in found)
                batch[key] = self._file(text, f"{key}.jsonl")["id"]
        batch["status"] = "expired" if expires else "completed"

    def _file(self, text: str, name: str) -> dict[str, Any]:
        file_id = f"file-{uuid.uuid4().hex[:12]}"
        self._files[file_id] = text
        return {"id": file_id, "object": "file", "bytes": len(text.encode()), "created_at": int(time.time()),
                "filename": name, "purpose": "batch", "status": "processed"}  # fmt: skip


def _bad(message: str, status: int = 400) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=status)
