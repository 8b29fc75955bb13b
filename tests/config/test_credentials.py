"""A key in a config, a URI or a command is refused before anything happens, in one sentence that does not repeat it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_ray import cli
from tapir_ray.cluster.jobs.env_vars import named
from tapir_ray.config import Config, load, parse
from tapir_ray.config.credentials import refuse_secrets, refuse_words
from tapir_ray.data.secret_uris import refuse_secret
from tapir_ray.errors import InputError
from tapir_ray.run import attempts
from tests.runs import ROOT

KEY = "planted1A7c9e5f2d4b6a8"
URI = f"s3://id:{KEY}@bucket/x"
BASE: dict[str, Any] = {"name": "x", "student": {"model": "owner/student"}, "seed_data": {"path": "owner/rows"}}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"teacher": {"base_url": f"https://h/v1?api_key={KEY}"}}, r"teacher\.base_url: .*\(api_key\).*in api_key_env"),
        ({"teacher": {"base_url": f"h.example/v1?api_key={KEY}"}}, r"teacher\.base_url: .*\(api_key\)"),
        ({"teacher": {"base_url": f"u:{KEY}@h/v1"}}, r"teacher\.base_url: .*a user or password"),
        ({"judge": {"base_url": f"https://h/v1?code={KEY}"}}, r"judge\.base_url: .*\(code\)"),
        ({"teacher": {"base_url": f"https://u:{KEY}@h/v1"}}, r"teacher\.base_url: .*a user or password"),
        ({"student": {"engine": "openai", "model": "m", "endpoint": {"base_url": f"https://h?sig={KEY}"}}}, "endpoint"),
        ({"seed_data": {"path": URI}}, r"seed_data\.path: a URI of s3:// holds a key; set AWS_ACCESS_KEY_ID"),
        ({"seed_data": {"path": f"https://h/rows.jsonl?X-Amz-Signature={KEY}"}}, r"\(X-Amz-Signature\)"),
        ({"run_dir": URI}, r"run_dir: a URI"),
        ({"cache": {"dir": URI}}, r"cache\.dir: a URI"),
        ({"filter": {"evaluation_sets": ["a.jsonl", URI]}}, r"filter\.evaluation_sets: a URI"),
        ({"student": {"model": URI}}, r"student\.model: a URI"),
        ({"classify": {"by": "deberta", "model": URI}}, r"classify\.model: a URI"),
        ({"simulator": {"path": URI}}, r"simulator\.path: a URI"),
        ({"prompts": {"dir": URI}}, r"prompts\.dir: a URI"),
        ({"teacher": {"extra_body": {"api_key": KEY}}}, r"teacher\.extra_body\.api_key holds a key"),
        ({"teacher": {"extra_body": {"a": [{"headers": {"X-Api-Key": KEY}}]}}}, r"extra_body\.a\.headers\.X-Api-Key"),
        ({"teacher": {"extra_headers": {"Authorization": KEY}}}, r"extra_headers\.Authorization holds a key"),
        ({"teacher": {"default_headers": {"x": f"Bearer {KEY}"}}}, r"default_headers\.x holds a key"),
        ({"teacher": {"engine_kwargs": {"hf_token": KEY}}}, r"engine_kwargs\.hf_token holds a key"),
        ({"teacher": {"api_key": KEY}}, r"teacher\.api_key holds a key, .* name it in api_key_env"),
        ({"teacher": {"model": f"sk-proj-{KEY}"}}, r"teacher\.model holds a key"),
        ({"teacher": {"base_url": f"https://h/sk-{KEY}/v1"}}, r"teacher\.base_url holds a key"),
        ({"teacher": {"base_url": f"https://h/v1?gw-authorization={KEY}"}}, r"\(gw-authorization\)"),
        ({"teacher": {"engine_kwargs": {"env": [f"HF_TOKEN=hf_{KEY}"]}}}, r"engine_kwargs\.env holds a key"),
        ({"teacher": {"api_key_env": f"hf_{KEY}aaaa"}}, r"teacher\.api_key_env"),
        ({"teacher": {"api_key_env": "0f2a9c4be18d4d6fa1b2" + KEY.lower()}}, r"api_key_env: write the name of an env"),
    ],
)
def test_a_key_in_a_config_is_refused_by_name(
    tmp_path: Path, sections: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=words) as error:
        parse({**BASE, **sections})
    assert KEY not in str(error.value) and KEY.lower() not in str(error.value) and "\n" not in str(error.value)
    config, run = tmp_path / "c.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump({**BASE, **sections}))
    assert cli.main(["run", str(config), "--run-dir", str(run)]) == 2
    captured = capsys.readouterr()
    assert KEY not in captured.err + captured.out and not run.exists()


def test_a_wrong_value_in_a_key_field_is_not_repeated(tmp_path: Path) -> None:
    for overrides in (
        [f"teacher.extra_body=sk-proj-{KEY}"],
        [f"teacher.extra_body=Bearer {KEY}"],
        [f"sk-proj-{KEY}"],
        [f"teacher.base_url.x=https://u:{KEY}@h"],
        [f"teacher.base_url=[https://u:{KEY}@h"],
    ):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**BASE, "teacher": {"base_url": "https://h/v1"}}))
        with pytest.raises(InputError) as error:
            load(tmp_path / "c.yaml", overrides)
        assert KEY not in str(error.value)
    (tmp_path / "c.yaml").write_text(f"teacher: {{base_url: 'https://u:{KEY}@h', [}}\n")
    with pytest.raises(InputError, match="not valid YAML") as error:
        load(tmp_path / "c.yaml")
    assert KEY not in str(error.value)


def test_ordinary_configs_hold_no_key() -> None:
    for file in sorted((ROOT / "configs").glob("*.yaml")):
        refuse_secrets(yaml.safe_load(file.read_text()))
        refuse_secrets(load(file, ["seed_data.path=owner/rows"]).model_dump(mode="json"))
    body = {
        "prompt_cache_key": "mine",
        "stop_token_ids": [1],
        "image_token": "<image>",
        "max_tokens": 5,
        "hf_token": True,
    }
    parse({**BASE, "teacher": {"extra_body": body, "base_url": "https://h/openai?api-version=2024-10-21"}})
    assert isinstance(parse({**BASE, "teacher": {"api_key_env": "AZURE_OPENAI_API_KEY"}}), Config)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "c.yaml", "--set", f"teacher.base_url=https://h/v1?key={KEY}"],
        ["run", "c.yaml", "--set", "random_seed=1", f"teacher.extra_body.api_key={KEY}"],
        ["run", "c.yaml", "--set", f"teacher.extra_body={{api_key: {KEY}}}"],
        ["run", "c.yaml", "--from", f"classify={URI}"],
        ["run", "c.yaml", "--fork", URI],
        ["run", "c.yaml", f"--run-dir={URI}"],
        ["run", URI],
        ["run", "c.yaml", "--form", f"x={URI}"],
        ["retry", URI],
        ["status", URI],
        ["status", "s3://b/r", "--address", f"http://u:{KEY}@head:8265"],
        ["status", "s3://b/r", "--address", f"http://head:8265?token={KEY}"],
        ["check", "c.yaml", "--address", f"http://u:{KEY}@head:8265"],
        ["regenerate", "c.yaml", "--run-dir", URI],
        ["classifier", "score", "c.yaml", "--model", URI],
        ["submit", "c.yaml", "--job", "distill", "--address", "http://h:1", "--env", f"OPENAI_API_KEY={KEY}"],
        ["submit", "c.yaml", "--job", "distill", "--address", "http://h:1", "--env", f"hf_{KEY}aaaaaaaa"],
        ["submit", "c.yaml", "--job", "distill", "--address", f"http://u:{KEY}@h:1"],
        ["submit", "c.yaml", "--job", "distill", "--address", "http://h:1", "--", "--from", f"classify={URI}"],
        [
            "submit",
            "c.yaml",
            "--job",
            "x",
            "--address",
            "http://h:1",
            "--",
            "--set",
            f"teacher.extra_body={{api_key: {KEY}}}",
        ],
    ],
)
def test_a_key_in_a_command_is_refused_before_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "distill.py").write_text("")
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tapir: ") and len(captured.err.splitlines()) == 1
    assert KEY not in captured.err + captured.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml", "jobs"]


def test_the_advice_for_a_key_depends_on_its_option() -> None:
    with pytest.raises(InputError, match=r"--address: a URI of http:// holds a user or password.*RAY_JOB_HEADERS"):
        refuse_words(["status", "s3://b/r", "--address", f"http://u:{KEY}@head:8265"])
    with pytest.raises(InputError, match=r"--env takes a name without a value|OPENAI_API_KEY holds a key"):
        refuse_words(["--env", f"OPENAI_API_KEY={KEY}"])
    with pytest.raises(InputError, match="name of a variable, not the key itself") as error:
        named([f"hf_{KEY}aaaaaaaa"])
    assert KEY not in str(error.value)
    with pytest.raises(InputError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"):
        refuse_secret(URI)


def test_an_ordinary_command_is_not_refused() -> None:
    refuse_words(["classifier", "train", "c.yaml", "--rows", "Passwords=rows.jsonl"])
    refuse_words(
        ["run", "c.yaml", "--set", "teacher.base_url=http://127.0.0.1:8000/v1", "teacher.api_key_env=MY_KEY",
         "teacher.extra_body={prompt_cache_key: a}", "budget.max_tokens=5", "--run-dir", "s3://b/r?region=eu", "--from",
         "classify=rows@2.jsonl", "--env", "OPENAI_API_KEY", "teacher.api_key_env=null", "a={", "--address", "http://h:8265"]
    )  # fmt: skip


def test_the_recorded_command_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """True also of a user's program that calls the package with arguments of its own."""
    monkeypatch.setattr(sys, "argv", ["/x/mine.py", "--api-key", "x", f"--token={KEY}", f"https://h?sig={KEY}", URI])
    assert KEY not in attempts._command() and attempts._command().startswith("mine.py --api-key x ")


def test_a_traceback_shows_no_key(tmp_path: Path) -> None:
    code = (
        "import sys, tapir_ray.cli as cli\n"
        f"def verb(_): raise RuntimeError('https://h/v1?api_key={KEY} refused sk-proj-{KEY}')\n"
        "cli.ended(verb, None)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code.replace(KEY, "' + __import__('os').environ['PLANTED'] + '"))
    done = subprocess.run([sys.executable, script], env={"PLANTED": KEY, "PYTHONPATH": str(ROOT)}, capture_output=True)
    captured = done.stderr.decode()
    assert done.returncode == 1 and "RuntimeError: https://h/v1?api_key=***" in captured and "Traceback" in captured
    assert KEY not in captured


def test_no_key_of_a_config_is_written_to_a_run(tmp_path: Path) -> None:
    """`RUN/config.yaml` is the dump of a parsed config, and a parsed config has no keys."""
    assert KEY not in parse({**BASE, "teacher": {"api_key_env": "MY_KEY"}}).dump()
    with pytest.raises(InputError):
        parse(json.loads(json.dumps({**BASE, "teacher": {"extra_body": {"token": KEY}}})))
