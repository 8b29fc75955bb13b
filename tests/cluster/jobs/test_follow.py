"""Finding a head, and following a job's log over connections that break."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus

from tapir_ray.cluster.jobs import follow
from tapir_ray.errors import InputError, StageError


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a server on loopback that answers every request with one status and text; returns its URL."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    servers: list[HTTPServer] = []

    def start(status: int, text: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Busy:
    """A head that fails `errors` times before it lists its jobs."""

    def __init__(self, errors: int) -> None:
        self.errors = errors

    def list_jobs(self) -> list[str]:
        self.errors -= 1
        if self.errors >= 0:
            raise RuntimeError("Request failed with status code 500: busy")
        return ["a job"]


def test_a_transient_error_of_the_head_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_S", 0.01)
    assert follow.listed(Busy(2)) == ["a job"]  # type: ignore[arg-type, comparison-overlap]
    monkeypatch.setattr(follow, "PATIENCE_S", 0.05)
    with pytest.raises(StageError, match=r"does not list its jobs .*busy"):
        follow.listed(Busy(10**6))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (401, "Unauthorized: Missing authentication token", "RAY_AUTH_TOKEN_PATH"),
        (403, "Forbidden: Invalid authentication token", "RAY_AUTH_TOKEN_PATH"),
        (404, "", "no Ray head answers at http"),
        (500, "", "no Ray head answers at http"),
        (200, "<html>another server</html>", "no Ray head answers at http"),
        (200, "{}", "no Ray head answers at http"),
    ],
)
def test_a_server_that_is_no_head_is_refused(answering: Any, status: int, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        follow.connect(answering(status, text))
    assert "\n" not in str(error.value)


def test_the_given_address_wins_over_the_environment(answering: Any) -> None:
    """Ray's own client would prefer RAY_ADDRESS."""
    url = answering(200, '{"ray_version": "2.60.0"}')
    assert follow.connect(url).get_address() == url


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "auto", "ray://h:10001", "http://u:planted@h:8265"])
def test_an_address_is_a_url_without_a_key(address: str) -> None:
    with pytest.raises(InputError, match="--address must be the URL of the head's dashboard") as error:
        follow.connect(address)
    assert "planted" not in str(error.value)


def test_an_address_without_a_listener_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with pytest.raises(InputError, match=r"no Ray head answers at http://127\.0\.0\.1:9"):
        follow.connect("http://127.0.0.1:9")


class Head:
    """A head with one job whose log connections break or fall silent after a number of chunks."""

    def __init__(self, log: list[str], *breaks: int, silently: bool = False) -> None:
        self._log, self._breaks, self._silently = log, list(breaks), silently
        self.status = JobStatus.RUNNING

    def get_job_info(self, submission_id: str) -> JobDetails:
        return JobDetails(type="SUBMISSION", submission_id=submission_id, status=self.status, entrypoint="e")

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        end = self._breaks.pop(0) if self._breaks else None
        for piece in self._log[:end]:
            yield piece
        if end is not None and self._silently:
            await asyncio.sleep(60)
        if end is not None:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        self.status = JobStatus.SUCCEEDED


def test_a_log_is_printed_once_over_broken_connections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follow, "POLL_S", 0.0)
    head: Any = Head(["one\n", "two\n", "three\n", "four\n"], 2, 1, 3)
    assert follow.follow(head, "tapir-0-1").status == JobStatus.SUCCEEDED
    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\n"


def test_a_silent_connection_is_opened_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lost network closes no connection, and the job may have ended since."""
    monkeypatch.setattr(follow, "POLL_S", 0.0)
    monkeypatch.setattr(follow, "QUIET_S", 0.05)
    monkeypatch.setattr(follow, "PATIENCE_S", 0.0)  # A job that prints nothing for a while is not lost.
    head: Any = Head(["one\n", "two\n", "three\n"], 1, 0, 2, silently=True)
    assert follow.follow(head, "tapir-0-1").status == JobStatus.SUCCEEDED
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_the_log_of_a_job_that_has_ended_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    head: Any = Head(["one\n", "two\n"])
    head.status = JobStatus.FAILED
    follow.follow(head, "tapir-0-1")
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_lost_head_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(submission_id: str) -> JobDetails:
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(follow, "POLL_S", 0.01)
    monkeypatch.setattr(follow, "PATIENCE_S", 0.1)
    head: Any = Head([])
    head.get_job_info = unreachable
    with pytest.raises(StageError, match="start the same command again once the head answers"):
        follow.follow(head, "tapir-0-1")


@pytest.mark.parametrize(
    ("entrypoint", "works"),
    [
        ("python jobs/distill.py c.yaml --run-dir '/shared/a b'", True),
        ("python -m tapir_ray.cli run c.yaml --run-dir '/shared/a b' --until mix", True),
        ("python jobs/status.py '/shared/a b' --json", False),
        ("python jobs/distill.py c.yaml --run-dir /shared/a", False),
        ("echo 'open", False),
    ],
)
def test_jobs_of_a_run_are_recognised_by_their_entrypoint(entrypoint: str, works: bool) -> None:
    job = JobDetails(type="SUBMISSION", submission_id="x", status=JobStatus.RUNNING, entrypoint=entrypoint)
    assert follow.works_on(job, "/shared/a b") is works
