"""A stand-in for the API of a Hugging Face hub on loopback: repositories in memory, with LFS and failures on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

REVISION = "0" * 40
LARGE = (".safetensors", ".parquet", ".jsonl")
"""Suffixes of files that go through LFS."""


@dataclass
class Hub:
    """State of the stand-in, and what it was asked."""

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by path, by `models/OWNER/NAME` or `datasets/OWNER/NAME`."""
    visibility: dict[str, str | None] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Contents of LFS files by their SHA-256."""
    uploads: list[str] = field(default_factory=list)
    """SHA-256 of each upload of an LFS file that was complete."""
    tokens: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)
    fails: int = 0
    """Number of further commits to answer with HTTP 500."""
    fails_uploads_after: int | None = None
    """Number of LFS files to take; each further one is answered with HTTP 403, as an expired signature is."""
    known: str = "hf_" + "x" * 34
    """Token that may write."""


@contextmanager
def hub() -> Iterator[Hub]:
    """Context manager with a running stand-in."""
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": state}))
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def hub_of_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Context manager with a stand-in that the environment names, with a token that may write."""
    with hub() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", found.known)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        # Xet has servers of its own, beside the hub; a hub without them takes LFS. Both are read at the import.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield found


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, status: int, content: Any = None, **headers: str) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        content, oid = self._body(), self.path.rpartition("/")[2]
        self.hub.requests.append(("PUT", self.path))
        limit = self.hub.fails_uploads_after
        if limit is not None and len(self.hub.uploads) >= limit:
            self._reply(403, {"error": "the signature has expired"})
            return
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self.hub.uploads.append(oid)
        self._reply(200)

    def do_GET(self) -> None:
        self.hub.requests.append(("GET", self.path))
        self._reply(404, {"error": "no such thing"}, **{"X-Error-Code": "EntryNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body, path = self._body(), urlsplit(self.path).path
        self.hub.requests.append(("POST", path))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.tokens.add(token)
        if token != self.hub.known:
            self._reply(401, {"error": "Invalid credentials in Authorization header"})
        elif path == "/api/validate-yaml":
            self._reply(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif "/preupload/" in path:
            self._preupload(path, json.loads(body))
        elif "/commit/" in path:
            self._commit(path, body)
        else:
            self._reply(404, {"error": path})

    def _create(self, asked: dict[str, Any]) -> None:
        kind = asked.get("type") or "model"
        name = f"{kind}s/{asked['organization']}/{asked['name']}"
        place = name.removeprefix("models/")
        if name in self.hub.repos:
            self._reply(409, {"error": "You already created this repo", "url": f"{self.hub.url}/{place}"})
            return
        self.hub.repos[name] = {}
        self.hub.visibility[name] = asked.get("visibility")
        self._reply(200, {"url": f"{self.hub.url}/{place}"})

    def _repo(self, path: str) -> dict[str, bytes]:
        return self.hub.repos["/".join(path.split("/")[2:5])]

    def _preupload(self, path: str, asked: dict[str, Any]) -> None:
        repo, files = self._repo(path), []
        for one in asked["files"]:
            mode = "lfs" if one["path"].endswith(LARGE) else "regular"
            there = repo.get(one["path"])
            oid = None if there is None or mode == "regular" else hashlib.sha256(there).hexdigest()
            files.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._reply(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            action = {"upload": {"href": f"{self.hub.url}/upload/{one['oid']}"}}
            objects.append({**one, **({} if one["oid"] in self.hub.objects else {"actions": action})})
        self._reply(200, {"transfer": "basic", "objects": objects})

    def _commit(self, path: str, body: bytes) -> None:
        if self.hub.fails:
            self.hub.fails -= 1
            self._reply(500, {"error": "the hub is ill"})
            return
        repo = self._repo(path)
        for line in filter(None, body.split(b"\n")):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repo[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repo[value["path"]] = self.hub.objects[value["oid"]]
        name = "/".join(path.split("/")[2:5]).removeprefix("models/")
        self._reply(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{REVISION}", "commitOid": REVISION})
