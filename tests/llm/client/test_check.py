"""The check of an endpoint before a run, against servers with the faults of real ones."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tapir_ray.config import Endpoint
from tapir_ray.errors import InputError
from tapir_ray.llm.client import check as module
from tapir_ray.llm.client.check import check, is_own
from tapir_ray.llm.client.target import Secret, Target

HTML = "<!doctype html><title>Welcome</title>"
NOT_FOUND = (404, {"detail": "Not Found"})


@contextmanager
def serving(routes: dict[str, tuple[int, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yields URL and seen requests of a server for `{"GET /v1/models": (status, JSON or text)}`; other requests get
    404."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = f"{self.command} {self.path}"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(f"{asked} {body.decode()}".strip())
            status, content = routes.get(asked, NOT_FOUND)
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def models(*names: str) -> tuple[int, Any]:
    return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}


def run(url: str, model: str = "m", role: str = "teacher") -> None:
    asyncio.run(check(Target(role, Endpoint(model=model, timeout_s=5.0), url, Secret("sk-secret"))))


def refused(url: str, **target: str) -> str:
    with pytest.raises(InputError) as error:
        run(url, **target)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "listed",
    [models("a", "m"), models(), (200, [{"id": "m"}]), (429, {"error": {"message": "later"}})],
    ids=["a list", "an empty one", "a bare one", "busy"],
)
def test_an_endpoint_that_serves_the_model_passes_with_one_request(listed: tuple[int, Any]) -> None:
    with serving({"GET /v1/models": listed}) as (url, seen):
        run(f"{url}/v1")
    assert seen == ["GET /v1/models"]


@pytest.mark.parametrize("at_root", [NOT_FOUND, (200, HTML), (200, {"status": "ok"})], ids=["404", "HTML", "JSON"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_error_for_a_url_without_v1_gives_the_right_url(at_root: tuple[int, Any], slash: str) -> None:
    with serving({"GET /models": at_root, "GET /v1/models": models("m")}) as (url, _):
        message = refused(url + slash)
    assert message.startswith(f"teacher.base_url {url}{slash} ") and message.endswith(f"set it to {url}/v1")


@pytest.mark.parametrize("page", [HTML, '{"data": [', ""], ids=["HTML", "broken JSON", "nothing"])
def test_an_endpoint_without_json_is_refused(page: str) -> None:
    with serving({"GET /v1/models": (200, page)}) as (url, seen):
        message = refused(f"{url}/v1")
    assert f"{url}/v1 answers {page!r}"[:50] in message and seen == ["GET /v1/models"]


def test_an_endpoint_without_a_model_list_passes_if_it_has_chat_completions() -> None:
    invalid = (400, {"error": {"message": "messages is required"}})
    with serving({"POST /v1/chat/completions": invalid}) as (url, seen):
        run(f"{url}/v1")
        assert seen == ["GET /v1/models", "POST /v1/chat/completions {}"]
        assert "neither /models nor /chat/completions (HTTP 404)" in refused(f"{url}/v2")
    with serving({"POST /v1/chat/completions": (403, {})}) as (url, _):
        assert "refuses the key (HTTP 403)" in refused(f"{url}/v1")
    with serving({"POST /v1/chat/completions": (200, HTML)}) as (url, _):
        assert "neither" in refused(f"{url}/v1")


def test_a_refused_key_and_a_server_that_is_down_are_told_apart() -> None:
    with serving({"GET /v1/models": (401, HTML)}) as (url, _):
        assert "teacher.api_key_env" in refused(f"{url}/v1")
    with serving({"GET /v1/models": (502, HTML)}) as (url, _):
        assert "HTTP 502" in refused(f"{url}/v1")
    assert "cannot be reached" in refused("http://127.0.0.1:9/v1")
    assert "cannot be reached" in refused("127.0.0.1:9/v1")


def test_a_model_that_is_not_served_is_refused_with_some_that_are() -> None:
    with serving({"GET /v1/models": models(*"abcdefgh")}) as (url, seen):
        message = refused(f"{url}/v1", model="Qwen/other")
        assert message.startswith("teacher.model Qwen/other is not among the models of teacher.base_url")
        assert "a, b, c, d, e and 3 more" in message
        assert seen == ["GET /v1/models", "GET /v1/models/Qwen%2Fother"]
        assert refused(f"{url}/v1", role="student").startswith("student.endpoint.model m is not")


def test_an_alias_known_to_the_endpoint_passes() -> None:
    alias = (200, {"id": "m-2026", "object": "model"})
    with serving({"GET /v1/models": models("m-2026"), "GET /v1/models/m-latest": alias}) as (url, _):
        run(f"{url}/v1", model="m-latest")
        assert "m-oldest" in refused(f"{url}/v1", model="m-oldest")


def test_a_model_missing_in_a_long_public_list_is_only_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"model-{number}" for number in range(60)]
    with serving({"GET /v1/models": models(*names)}) as (url, _):
        assert "model-0" in refused(f"{url}/v1")
        monkeypatch.setattr(module, "is_own", lambda _: False)
        run(f"{url}/v1")
        assert "teacher.model m is not among the models" in caplog.text


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.2.3.4/v1", True),
        ("http://vllm:8000/v1", True),
        ("http://vllm.default.svc.cluster.local/v1", True),
        ("https://api.deepseek.com/v1", False),
        ("http://8.8.8.8/v1", False),
        (None, False),
    ],
)
def test_private_addresses_are_own_endpoints(url: str | None, own: bool) -> None:
    assert is_own(url) == own
