"""`tapir export`: options without an effect are refused, and a failed upload writes nothing that stands in the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_ray.cli import main
from tests.report.export.hub_server import Hub, hub_of_environment
from tests.report.export.runs import finished_run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_of_environment(monkeypatch) as found:
        yield found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--what", "dataset", "--out", "o"], "--what dataset needs --format: one of alpaca, openai"),
        (["--what", "dataset", "--format", "openai"], "give --out with a new folder or URI, or --push"),
        (["--what", "dataset", "--format", "openai", "--out", "o", "--adapter"], "--adapter has no effect"),
        (["--what", "student", "--out", "o", "--table", "x"], "--table has no effect with --what student"),
        (["--what", "student", "--out", "o", "--private"], "--private has no effect without --push"),
        (["--what", "dataset", "--format", "hf", "--push", "me/mine"], "take --format parquet"),
    ],
)
def test_options_without_an_effect_are_refused(
    tmp_path: Path, server: Hub, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    run, _ = finished_run(tmp_path)
    assert main(["export", run.uri, *options]) == 2
    assert message in capsys.readouterr().err
    assert server.requests == []


def test_counts_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = finished_run(tmp_path)
    asked = ["export", run.uri, "--what", "dataset", "--format", "alpaca", "--out", str(tmp_path / "out")]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "left out: alpaca cannot mask an earlier answer" in said and f"dataset: {tmp_path / 'out'}" in said
    assert main([*asked, "--overwrite", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["left_out"]["repeated: an exported row has it"]) == (3, 5)


def test_a_failed_upload_leaves_no_folder_and_the_same_command_continues(
    tmp_path: Path, server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished_run(tmp_path)
    asked = ["export", run.uri, "--what", "student", "--out", str(tmp_path / "out"), "--push", "me/s", "--private"]
    server.fails_uploads_after = 0
    assert main(asked) == 1
    assert "give the same command again to continue it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    server.fails_uploads_after = None
    assert main(asked) == 0
    assert f"student: {server.url}/me/s" in capsys.readouterr().out
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert server.repos["models/me/s"] == files
    assert server.known not in "".join(str(text) for text in files.values())


def test_an_upload_needs_no_folder(tmp_path: Path, server: Hub) -> None:
    run, _ = finished_run(tmp_path)
    asked = ["export", run.uri, "--what", "dataset", "--format", "parquet", "--push", "me/d"]
    assert main(asked) == 0
    assert server.repos["datasets/me/d"].keys() == {"README.md", "data/train-00000.parquet"}
    assert main(asked) == 0
    assert len(server.uploads) == 1, "an export of the same run has the same bytes"
