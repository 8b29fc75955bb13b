"""The HTTP server: the protocol seen by a client, the log, loopback, and the life of the process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tapir_ray.cli import main
from tapir_ray.errors import InputError
from tapir_ray.simulator import Options, running
from tapir_ray.simulator.server import Server
from tests.simulator.asking import prompt, styled, user

MATH = "tom has 7 pens , finds 3 , loses 2 . how many pens now ?"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("simulator") / "log.jsonl"


@pytest.fixture(scope="module")
def client(log: Path) -> Iterator[openai.OpenAI]:
    with running(Options(log=str(log))) as url:
        yield openai.OpenAI(base_url=url, api_key="any", max_retries=0)


def post(client: openai.OpenAI, body: bytes) -> tuple[int, dict[str, dict[str, str]]]:
    url = f"{client.base_url}chat/completions"
    with pytest.raises(urllib.error.HTTPError) as failure:
        urllib.request.urlopen(urllib.request.Request(url, data=body, method="POST"), timeout=10)
    return failure.value.code, json.loads(failure.value.read())


def test_a_chat_completion_has_text_usage_and_finish_reason(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="any-name", messages=user(MATH))
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("8", "stop")
    assert reply.model == "any-name"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (16, 1, 17)


def test_it_serves_every_model_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["simulator-tasks"]
    assert client.models.retrieve("Qwen/any-name").id == "Qwen/any-name"


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_truncates_the_reply_and_its_finish_reason_is_length(client: openai.OpenAI, key: str) -> None:
    whole = client.chat.completions.create(model="m", messages=styled(MATH)).choices[0].message.content or ""
    cut = client.chat.completions.create(model="m", messages=styled(MATH), extra_body={key: 5})
    assert cut.choices[0].finish_reason == "length"
    assert cut.choices[0].message.content == " ".join(whole.split()[:5])
    assert cut.usage is not None and cut.usage.completion_tokens == 5
    room = client.chat.completions.create(model="m", messages=styled(MATH), extra_body={key: len(whole.split())})
    assert (room.choices[0].finish_reason, room.choices[0].message.content) == ("stop", whole)


def test_servers_with_the_same_seed_give_equal_bytes_for_a_request(client: openai.OpenAI) -> None:
    def ask(at: openai.OpenAI, seed: int) -> str:
        messages = prompt("expand", task="Math", instruction=MATH)
        return at.chat.completions.create(model="m", messages=messages, seed=seed).to_json()

    with running(Options()) as url:
        other = openai.OpenAI(base_url=url, api_key="another")
        assert [ask(client, seed) for seed in range(5)] == [ask(other, seed) for seed in range(5)]
    assert ask(client, 1) != ask(client, 2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"not json", "not JSON"),
        (b"[]", "JSON object"),
        (b'{"model": "m", "messages": []}', "messages"),
        (b'{"model": "m", "messages": [{"role": "user"}]}', "content"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": true}', "stream"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}', "max_tokens"),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "seed": "1"}', "seed"),
    ],
)
def test_a_bad_request_gets_an_openai_error(client: openai.OpenAI, body: bytes, message: str) -> None:
    status, reply = post(client, body)
    assert status == 400
    assert message in reply["error"]["message"] and reply["error"]["type"] == "invalid_request_error"


def test_every_request_is_logged_as_one_line(client: openai.OpenAI, log: Path) -> None:
    before = len(log.read_text().splitlines())
    client.chat.completions.create(model="m", messages=user(MATH), seed=11)
    client.chat.completions.create(model="m", messages=prompt("label", labels=["Math"], instruction=MATH))
    post(client, b"{}")
    answer, label, invalid = (json.loads(line) for line in log.read_text().splitlines()[before:])
    assert (answer["kind"], answer["seed"], answer["status"], answer["completion_tokens"]) == ("answer", 11, 200, 1)
    assert (label["kind"], invalid["kind"], invalid["status"]) == ("label", "invalid", 400)
    assert answer["prompt"] != label["prompt"] and answer["time"] <= label["time"]


def test_it_listens_on_loopback_only() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(InputError, match="loopback"):
            Server(Options(host=host))


def test_a_reply_waits_for_the_latency(tmp_path: Path) -> None:
    with running(Options(latency_s=0.3)) as url:
        started = time.monotonic()
        openai.OpenAI(base_url=url, api_key="any").chat.completions.create(model="m", messages=user(MATH))
        assert time.monotonic() - started >= 0.3


def test_the_command_takes_the_latency_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["simulate", "--help"])
    shown = capsys.readouterr().out
    assert "--latency LATENCY" in shown and "--latency-s" not in shown
    assert main(["simulate", "--latency", "0.5", "--host", "example.org"]) == 2


def test_a_server_that_cannot_start_gives_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="did not start"), running(Options(scenario=str(tmp_path / "none.jsonl"))):
        pass
    assert "none.jsonl" in capfd.readouterr().err


START = """
import sys, time
from tapir_ray.simulator import Options, running
with running(Options()) as url:
    print(url, flush=True)
    time.sleep(60)
"""


def test_it_ends_with_its_block_and_with_a_killed_parent() -> None:
    with running(Options()) as url:
        assert urllib.request.urlopen(f"{url}/models", timeout=10).status == 200
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/models", timeout=2)

    parent = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url = parent.stdout.readline().strip()
    assert urllib.request.urlopen(f"{url}/models", timeout=10).status == 200
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/models", timeout=2)
        except urllib.error.URLError:
            return
        time.sleep(0.1)
    pytest.fail("the simulator outlived the process that started it")
