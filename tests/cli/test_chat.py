"""`tapir chat`: turns are kept and forgotten as asked, also with piped input; a refused question ends no talk."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tapir_ray.cli import chat, main
from tapir_ray.errors import StageError

LONGEST = 60
"""Most characters of a conversation that the server takes."""


@contextmanager
def endpoint() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Context manager with (address, requests) of a streaming endpoint, which repeats the last question in capitals."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            models = {"object": "list", "data": [{"id": "loud", "object": "model", "created": 0, "owned_by": "me"}]}
            self._send(200, "application/json", json.dumps(models).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            if sum(len(turn["content"]) for turn in body["messages"]) > LONGEST:
                error = {"error": {"message": f"the longest conversation has {LONGEST} characters", "code": 400}}
                self._send(400, "application/json", json.dumps(error).encode())
                return
            pieces = body["messages"][-1]["content"].upper().split(" ")
            chunks = [{"choices": [{"index": 0, "delta": {"content": piece + " "}}]} for piece in pieces]
            common = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "loud"}
            lines = [f"data: {json.dumps({**common, **chunk})}\n\n" for chunk in chunks]
            self._send(200, "text/event-stream", "".join([*lines, "data: [DONE]\n\n"]).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def talked(url: str, text: str, **settings: Any) -> str:
    out = io.StringIO()
    chat.chat(chat.Talk(url, **settings), io.StringIO(text), out, terminal=False)
    return out.getvalue()


def test_a_talk_keeps_its_turns_until_it_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with endpoint() as (url, asked):
        said = talked(url, "hello you\n\nagain\n/reset\nnew\n/quit\nnever\n", system="Be loud.", temperature=0.0)
    assert said == "HELLO YOU \nAGAIN \nNEW \n"
    first, second, third = ([turn["content"] for turn in body["messages"]] for body in asked)
    assert first == ["Be loud.", "hello you"]
    assert second == ["Be loud.", "hello you", "HELLO YOU ", "again"]
    assert third == ["Be loud.", "new"]
    assert {body["model"] for body in asked} == {"loud"} and asked[0]["temperature"] == 0.0
    assert "max_tokens" not in asked[0]


def test_a_refused_question_is_forgotten_on_a_terminal_and_ends_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint() as (url, asked):
        questions = iter(["x" * (LONGEST + 1), "hi"])

        def typed(_: str) -> str:
            if (question := next(questions, None)) is None:
                raise EOFError
            return question

        monkeypatch.setattr("builtins.input", typed)
        out = io.StringIO()
        chat.chat(chat.Talk(url), io.StringIO(), out, terminal=True)
        assert "the longest conversation has 60 characters); /reset begins again" in out.getvalue()
        assert "student> HI \n" in out.getvalue()
        assert [turn["content"] for turn in asked[-1]["messages"]] == ["hi"]
        with pytest.raises(StageError, match="no answer"):
            talked(url, "x" * (LONGEST + 1))


def test_an_answer_that_is_stopped_counts_as_far_as_it_came() -> None:
    with endpoint() as (url, _):
        talk = chat.Talk(url)
        pieces = talk.answer("a b c")
        assert next(pieces) == "A "
        pieces.close()
        assert talk.messages == [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": "A "}]


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in {
        (): "give a run or a model, or --url",
        ("--url", "http://127.0.0.1:9/v1"): "no OpenAI server answers",
        ("--url", "http://127.0.0.1:9/v1", "--student", "best"): "--student has no effect with --url",
    }.items():
        assert main(["chat", *arguments]) == 2
        assert message in capsys.readouterr().err
