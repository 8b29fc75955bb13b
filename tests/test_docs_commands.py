"""Commands on the pages: the command line takes each, its keys and files exist, and what needs no model is run."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from tapir_ray.cli import _own, _parser, main
from tapir_ray.config import Config
from tapir_ray.config.keys import section_of
from tapir_ray.config.section import Section
from tests.report.html.folders import finished_run

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "cluster").glob("*.md")]
RUN_BY = {
    "chat": "tests/cli/test_serve.py",
    "check": "tests/cli/test_check.py",
    "classifier": "tests/test_end_to_end.py",
    "compare": "tests/report/test_compare.py",
    "eval": "tests/cli/test_eval.py",
    "export": "tests/cli/test_export.py",
    "init": "tests/cli/test_init.py",
    "regenerate": "tests/methods/test_regenerate.py",
    "report": "tests/report/html/test_report.py",
    "retry": "tests/test_end_to_end.py",
    "rows": "tests/report/test_rows.py",
    "run": "tests/test_end_to_end.py",
    "serve": "tests/cli/test_serve.py",
    "simulate": "tests/simulator/test_server.py",
    "status": "tests/test_end_to_end.py",
    "submit": "tests/cluster/jobs/test_submit.py",
}
"""Test, or helper of the tests, that runs a verb with real models or stored runs."""
NEED = {
    "aws": "an account of AWS",
    "gcloud": "an account of Google Cloud",
    "kubectl": "a Kubernetes cluster",
    "helm": "a Kubernetes cluster",
    "docker": "a registry of images",
    "ray": "machines of a cluster",
    "curl": "a server of `tapir serve`; tests/cli/test_serve.py asks it",
    "git": "the address of the repository",
    "pip": "a package index",
    "lm_eval": "the harness, a command of another project",
}
"""Programs on the pages that no test can run here, and what they need."""
SHELL = {".", "export", "for", "done", "do", "printf", "make", "python", ".ci/run", "tapir"}
LEFT_OUT = {("submit", "…"): ["--address", "http://HEAD:8265", "--run-dir", "s3://bucket/runs/mine"]}
"""Options that a line leaves out, since the line above it has them."""
READS_A_RUN = ("status", "report", "rows", "compare")


def commands() -> list[tuple[str, str]]:
    """Returns (page, command) of every line in the shell blocks of all pages."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
            # A quoted text may go over several lines.
            joined = re.sub(r"\\\n\s*", " ", block)
            joined = re.sub(r"'[^'\n]*\n[^']*'", "TEXT", joined)
            lines = (line.strip() for line in joined.splitlines())
            found += [(page.name, line) for line in lines if line and not line.startswith("#")]
    return found


def words_of(command: str) -> list[str]:
    """Returns the words of a command, without its comment; the output of another command is one word."""
    return shlex.split(re.sub(r"\$\([^)]*\)", "FOLDER", command), comments=True)


def tapir_words() -> list[tuple[str, list[str]]]:
    """Returns (page, arguments) of every `tapir` command, with the options that … stands for."""
    found = []
    for page, command in commands():
        words = words_of(command.rpartition("| ")[2])
        while re.match(r"\w+=", words[0]):
            words = words[1:]  # a variable of the environment
        if Path(words[0]).name == "tapir":
            found.append((page, [part for word in words[1:] for part in LEFT_OUT.get((words[1], word), [word])]))
    return found


TAPIR = [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in tapir_words()]


def parsed(words: list[str]) -> argparse.Namespace:
    """Returns the options of a command, as `tapir` reads them; a submitted job is a `tapir run`."""
    own, for_job = _own(words)
    if for_job:
        parsed(["run", "mine.yaml", *for_job])
    return _parser().parse_args(own)


def is_key(path: str) -> bool:
    """Returns True if the config has a key of this path; below a mapping every name is one."""
    section: type[Section] | None = Config
    for name in path.split("."):
        if section is None:
            return True
        if name not in section.model_fields:
            return False
        section = section_of(section.model_fields[name])
    return True


@pytest.mark.parametrize("words", TAPIR)
def test_the_command_line_takes_a_command_of_the_pages(words: list[str]) -> None:
    options = parsed(words)
    assert [key for key in getattr(options, "set", []) if not is_key(key.partition("=")[0])] == []
    shipped = [word for word in words if word.startswith(("configs/", "tests/"))]
    own = ("configs/mine.yaml",)
    assert [word for word in shipped if word not in own and not (ROOT / word).exists()] == []


def test_a_wrong_option_and_a_wrong_key_are_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_key("curriculum.delta") and is_key("curriculum.weights.Math") and is_key("budget.max_cost")
    with pytest.raises(SystemExit):
        parsed(["run", "mine.yaml", "--until-stage", "score"])
    capsys.readouterr()


def test_every_verb_on_the_pages_is_run_by_a_test() -> None:
    assert {words[0] for _, words in tapir_words()} <= RUN_BY.keys()
    missing = [verb for verb, path in RUN_BY.items() if f'"{verb}"' not in (ROOT / path).read_text(encoding="utf-8")]
    assert missing == []


def test_every_other_program_is_known() -> None:
    first = {words_of(command)[0] for _, command in commands() if "$(" not in command.split()[0]}
    programs = {word.removeprefix(".venv/bin/") for word in first if "=" not in word}
    assert programs - NEED.keys() - SHELL == set()
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for page, command in commands():
        words = words_of(command)
        if words[0] == "make":
            assert set(words[1:]) <= set(targets), f"{page}: {command}"
        if words[0] == "python" and not words[1].startswith("-"):
            assert (ROOT / words[1]).exists(), f"{page}: {command}"


@pytest.mark.parametrize("words", [one for one in TAPIR if one.values[0][0] in READS_A_RUN])
def test_a_command_that_reads_a_run_is_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda uri: True)
    folders = {name: finished_run(tmp_path, name=name.rpartition("/")[2]) for name in ("runs/mine", "runs/a", "runs/b")}
    if any("://" in word or word.startswith("/shared") for word in words):
        pytest.skip("needs a cluster, or a run on storage")
    assert main([folders.get(word, word) for word in words]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() and "tapir:" not in captured.err
