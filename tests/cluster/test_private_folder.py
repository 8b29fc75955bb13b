"""Temporary files that no other user can read or write; a folder prepared by another user is refused."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_ray.cluster import private_folder
from tapir_ray.cluster.private_folder import trusted
from tapir_ray.cluster.session import SOCKET, close_libraries, ray_folder
from tapir_ray.errors import InputError
from tapir_ray.run import model_store

NAME = f"tapir-{os.geteuid()}"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask as a user's shell may set it."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary folder shared by all users, with a short path."""
    tmp_path_factory.getbasetemp()  # The base of pytest's own folders, which is elsewhere.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.delenv(model_store.FOLDER, raising=False)
        yield Path(folder)


def test_temporary_files_are_in_a_private_folder_below_a_shared_one(shared: Path, umask: int) -> None:
    ray, spill = ray_folder()
    copies = model_store.folder()
    assert spill is None
    assert [path.name for path in shared.iterdir()] == [NAME] and mode(shared / NAME) == 0o700
    for folder in (Path(ray), copies):
        assert folder.parent == shared / NAME
        assert mode(folder) == 0o700 and folder.stat().st_uid == os.geteuid()
    # Ray's folder is open to all, but nobody can enter the one above it.
    Path(ray).chmod(0o777)
    assert ray_folder()[0] != ray and mode(shared / NAME) == 0o700


def test_libraries_keep_sockets_and_compiled_code_in_the_private_folder(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "/chosen")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    close_libraries(Path(ray_folder()[0]).parent)
    assert os.environ["VLLM_RPC_BASE_PATH"] == "/chosen"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(shared / NAME / "torchinductor")


def test_two_users_never_share_a_folder(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = private_folder.private_folder()
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert private_folder._user(4242) == "user 4242"
    assert mine.name != f"tapir-{os.geteuid()}"
    with pytest.raises(InputError, match=r"tapir-4242 belongs to user .*: remove it, or set TMPDIR"):
        private_folder.private_folder()  # Made by this process, which now counts as another user.


@pytest.mark.parametrize("planted", ["link", "file", "writable", "group"])
def test_a_path_prepared_by_another_user_is_refused(shared: Path, tmp_path: Path, planted: str) -> None:
    place = shared / NAME
    if planted == "link":
        place.symlink_to(tmp_path)
    elif planted == "file":
        place.write_text("")
    else:
        place.mkdir()
        place.chmod(0o777 if planted == "writable" else 0o770)
    words = {"link": "is a link", "file": "is not a folder"}.get(planted, r"can be written by other users \(mode 07")
    for ask in (ray_folder, model_store.folder):
        with pytest.raises(InputError, match=words) as error:
            ask()
        assert str(place) in str(error.value) and "set TMPDIR to a folder of your own" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_readable_folder_of_the_user_is_closed(shared: Path) -> None:
    (shared / NAME).mkdir(mode=0o755)
    assert mode(model_store.folder()) == mode(shared / NAME) == 0o700


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"cannot be created \(No such file or directory\): set TMPDIR"):
        model_store.folder()


def test_a_named_folder_for_models_is_private_or_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    tmp_path.chmod(0o777)  # Mode 777, as an emptyDir of Kubernetes has it.
    monkeypatch.setenv(model_store.FOLDER, str(tmp_path / "scratch" / "models"))
    assert model_store.folder() == tmp_path / "scratch" / "models" and mode(model_store.folder()) == 0o700
    model_store.folder().chmod(0o755)
    assert model_store.folder().is_dir(), "others may read it if the user lets them"
    for open_to in (0o777, 0o775, 0o1777):
        model_store.folder().chmod(0o700)
        (tmp_path / "scratch" / "models").chmod(open_to)
        with pytest.raises(InputError, match=r"TAPIR_MODELS .* can be written by other users .*does not exist yet"):
            model_store.folder()
        (tmp_path / "scratch" / "models").chmod(0o700)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    tmp_path.chmod(0o755)
    with pytest.raises(InputError, match=r"TAPIR_MODELS .* belongs to user"):
        trusted(tmp_path, model_store.FOLDER)
    link = tmp_path / "link"
    if tmp_path.stat().st_uid != 0:  # An administrator's link is trusted.
        link.symlink_to(tmp_path)
        with pytest.raises(InputError, match="is a link that user"):
            trusted(link, model_store.FOLDER)


def test_socket_paths_fit_below_a_long_tmpdir(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spilled objects still go to the user's TMPDIR."""
    for length in (1, 10, 20, 40, 80, 120):
        base = shared / ("x" * length)
        base.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(base))
        folder, spill = ray_folder()
        assert Path(folder).parent.name == NAME and mode(Path(folder).parent) == 0o700
        assert base in (Path(folder).parents if spill is None else Path(spill).parents)
        path = Path(folder + SOCKET)
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
        path.unlink()
        for part in (path.parent, path.parent.parent, Path(folder)):
            part.rmdir()
