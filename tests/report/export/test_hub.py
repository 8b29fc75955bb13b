"""Uploads to a hub: whole, private, continued after a failure, with a token that no message shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tapir_ray.errors import InputError, StageError
from tapir_ray.report.export import hub as exports
from tests.report.export.hub_server import Hub, hub_of_environment


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_of_environment(monkeypatch) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "export"
    (made / "data").mkdir(parents=True)
    (made / "README.md").write_text("---\ntags: [tapir-ray]\n---\n# mine\n")
    for number in range(3):
        (made / "data" / f"train-{number:05d}.jsonl").write_text(f'{{"n": {number}}}\n' * 100)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_uploaded_whole_to_a_new_private_repository(server: Hub, folder: Path) -> None:
    url = exports.push(folder, "me/mine", "dataset", private=True)
    assert url == f"{server.url}/datasets/me/mine"
    assert server.repos == {"datasets/me/mine": contents(folder)}
    assert server.visibility == {"datasets/me/mine": "private"}
    assert server.tokens == {server.known}
    exports.push(folder, "me/mine", "dataset", private=False)
    assert server.visibility == {"datasets/me/mine": "private"}, "a repository that exists keeps its visibility"
    exports.push(folder, "me/student", "model", private=False)
    assert server.visibility["models/me/student"] is None, "the owner's settings decide"


def test_a_failed_upload_is_continued_by_the_same_command(server: Hub, folder: Path) -> None:
    server.fails_uploads_after = 1
    with pytest.raises(StageError, match=r"the upload to me/mine failed .*give the same command again to continue"):
        exports.push(folder, "me/mine", "dataset", private=False)
    assert len(server.uploads) == 1 and server.repos["datasets/me/mine"] == {}
    server.fails_uploads_after = None
    exports.push(folder, "me/mine", "dataset", private=False)
    assert server.repos["datasets/me/mine"] == contents(folder)
    assert len(server.uploads) == len(set(server.uploads)) == 3, "a file that the hub has is not sent again"


def test_an_upload_is_tried_again_after_an_error_of_the_hub(server: Hub, folder: Path) -> None:
    server.fails = 1
    exports.push(folder, "me/mine", "dataset", private=False)
    assert server.repos["datasets/me/mine"] == contents(folder)
    assert len(server.uploads) == 3


def test_a_refused_token_is_named_by_its_variable_and_never_shown(
    server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_" + "s3cr3t" * 6
    monkeypatch.setenv("HF_TOKEN", secret)
    with pytest.raises(InputError, match="the hub does not know the token: correct HF_TOKEN") as refused:
        exports.push(folder, "me/mine", "dataset", private=False)
    assert secret not in str(refused.value)
    assert server.repos == {}


def test_only_the_environment_has_a_token(
    server: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(server.known)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="in the environment variable HF_TOKEN; files are not read"):
        exports.push(folder, "me/mine", "dataset", private=False)
    assert server.requests == []


@pytest.mark.parametrize("repo", ["mine", "a/b/c", "me/my student", "https://huggingface.co/me/mine"])
def test_a_name_that_is_no_repository_is_refused(server: Hub, repo: str) -> None:
    with pytest.raises(InputError, match="write OWNER/NAME"):
        exports.check(repo)


def test_an_offline_machine_is_told(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids it"):
        exports.check("me/mine")
