"""`tapir chat`: talks to a model behind an OpenAI server, turn by turn, in a terminal or with piped input.

talk = Talk("http://127.0.0.1:8000/v1", "mine")
chat(talk, sys.stdin, sys.stdout, terminal=False)          # a line a question: the answers, one after the other
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TextIO
from urllib.parse import urlsplit

from tapir_ray.data.schemas import Message
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError, StageError

RESET, QUIT = "/reset", "/quit"
ASK, ANSWER = "you> ", "student> "
HELP = f"{RESET} forgets the conversation, {QUIT} or Ctrl-D ends; Ctrl-C stops an answer"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TIMEOUT_S = 600.0


class Talk:
    """A conversation with a model: its turns so far, and the settings of its answers."""

    def __init__(
        self,
        url: str,
        model: str | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> None:
        """Raises InputError if no server answers at `url`; without `model` its first one is asked."""
        import openai

        # A server on loopback is not behind the proxies of the environment.
        direct = urlsplit(url).hostname in LOOPBACK
        self._client = openai.OpenAI(
            base_url=url,
            api_key="none",
            max_retries=0,
            timeout=TIMEOUT_S,
            http_client=openai.DefaultHttpxClient(trust_env=not direct),
        )
        self._start: list[Message] = [{"role": "system", "content": system}] if system else []
        self.messages = list(self._start)
        self._given = {"max_tokens": max_tokens, "temperature": temperature}
        try:
            self.model = model or self._client.models.list().data[0].id
        except (openai.OpenAIError, IndexError) as error:
            raise InputError(
                f"--url {url}: no OpenAI server answers ({_said(error)}): start one by tapir serve"
            ) from error

    def reset(self) -> None:
        """Forgets the turns so far."""
        self.messages = list(self._start)

    def answer(self, question: str) -> Generator[str, None, None]:
        """Yields the pieces of the answer to the next question; both are in `messages` afterwards.

        An answer that is stopped counts as far as it came. Raises StageError if the server refuses the question, which
        then is not in `messages`.
        """
        import openai

        self.messages.append({"role": "user", "content": question})
        asked: dict[str, Any] = {"model": self.model, "messages": self.messages, "stream": True}
        asked |= {name: value for name, value in self._given.items() if value is not None}
        said: list[str] = []
        try:
            stream: Any = self._client.chat.completions.create(**asked)
            for chunk in stream:
                text = chunk.choices[0].delta.content if chunk.choices else None
                if text:
                    said.append(text)
                    yield text
        except openai.OpenAIError as error:
            self.messages.pop()
            raise StageError(f"no answer ({_said(error)}); {RESET} begins again") from error
        finally:
            if self.messages and self.messages[-1]["role"] == "user" and said:
                self.messages.append({"role": "assistant", "content": "".join(said)})


def chat(talk: Talk, lines: TextIO, out: TextIO, terminal: bool) -> None:
    """Asks each line of `lines` and prints the answers, until `/quit` or the end.

    On a terminal with prompts, and an error is printed and the talk goes on. Otherwise with the answers alone, each
    with a line end. Raises StageError there for a question without an answer.
    """
    if terminal:
        print(f"{talk.model}: {HELP}", file=out)
    for line in _lines(lines, terminal):
        question = line.strip()
        if question == QUIT:
            return
        if question == RESET:
            talk.reset()
            if terminal:
                print("(a new conversation)", file=out)
        elif question:
            try:
                _print(talk.answer(question), out, terminal)
            except StageError as error:
                if not terminal:
                    raise
                print(error, file=out)


def _print(pieces: Generator[str, None, None], out: TextIO, terminal: bool) -> None:
    if terminal:
        print(ANSWER, end="", file=out, flush=True)
    try:
        for text in pieces:
            print(text, end="", file=out, flush=True)
    except KeyboardInterrupt:
        if not terminal:
            raise
        pieces.close()
        print(" (stopped)", end="", file=out)
    print(file=out, flush=True)


def _lines(lines: TextIO, terminal: bool) -> Iterator[str]:
    if not terminal:
        yield from lines
        return
    import readline  # noqa: F401 (`input` gets a history and editing by it)

    while True:
        try:
            yield input(ASK)
        except EOFError:
            print()
            return


def _said(error: BaseException) -> str:
    """Returns the message of a server's error without the dump of its body."""
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    return one_line(message or error)[:300] or type(error).__name__


def run_chat(
    target: str | None,
    url: str | None,
    which: str | None,
    overrides: Sequence[str],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Talks to a run's student, to a model, or to that of a server. Raises InputError unless one of them is given."""
    if (target is None) == (url is None):
        raise InputError("give a run or a model, or --url of a server that runs already")
    from tapir_ray.cli.serve import ended_by_signals, settings_of
    from tapir_ray.llm.serve.local_server import served

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    with ended_by_signals():
        if url is not None:
            _refuse_unused(which, overrides)
            chat(Talk(url, None, system, max_tokens, temperature), sys.stdin, sys.stdout, terminal)
            return
        assert target is not None
        settings = settings_of(target, which, 0, overrides)
        if max_tokens is None and settings.samples_as_run:
            max_tokens = settings.student.sampling.max_tokens
        with served(settings, _to_stderr) as server:
            chat(Talk(server.url, server.name, system, max_tokens, temperature), sys.stdin, sys.stdout, terminal)


def _refuse_unused(which: str | None, overrides: Sequence[str]) -> None:
    for name, value in (("--student", which), ("--set", overrides)):
        if value:
            raise InputError(f"{name} has no effect with --url, whose server has its model already: leave it out")


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
