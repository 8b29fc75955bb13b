"""Simultaneous starts: one owns the run, on a disk, on a store with conditional writes and on one without."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tapir_ray.curriculum.actor import StateFiles
from tapir_ray.data import conditional_writes
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError, StageError
from tapir_ray.run import attempts
from tapir_ray.run.attempts import check_owner, claim
from tests import s3, s3_proxy


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3.bucket() as uri:
        yield uri


def starts(uri: str, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> list[Storage]:
    """Returns the storages of the starts that own the run; all have looked before any writes."""
    monkeypatch.setattr(attempts, "refuse_second_owner", lambda storage: 0)
    together = threading.Barrier(count)

    def start(_: int) -> Storage | None:
        storage = Storage.at(uri)
        together.wait()
        try:
            claim(storage)
        except InputError as error:
            assert "at the same moment" in str(error)
            return None
        return storage

    with ThreadPoolExecutor(count) as pool:
        return [storage for storage in pool.map(start, range(count)) if storage is not None]


def owners(storages: list[Storage]) -> int:
    """Counts the storages that may publish."""
    found = 0
    for storage in storages:
        try:
            check_owner(storage, 1)
        except StageError as error:
            assert "another start at the same moment" in str(error)
        else:
            found += 1
    return found


def test_on_a_disk_one_start_owns_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        won = starts(str(tmp_path / str(number)), monkeypatch, 4)
        assert len(won) == owners(won) == 1
        assert os.listdir(tmp_path / str(number) / "attempts") == ["00001.json"], "no temporary file is left"


def test_on_a_disk_without_hard_links_one_start_owns_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(conditional_writes.os, "link", refused)
    for number in range(20):
        assert owners(starts(str(tmp_path / str(number)), monkeypatch, 4)) == 1


def test_a_link_that_was_made_twice_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network filesystem repeats the request if the first reply is lost."""
    link = os.link

    def twice(source: str, target: str) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(conditional_writes.os, "link", twice)
    assert Storage.at(str(tmp_path)).create_json("a.json", {}) is True


def test_on_s3_one_start_owns_the_run(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_proxy.before(os.environ["AWS_ENDPOINT_URL"], s3_proxy.HEEDED) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setattr(attempts, "SETTLE_S", 1000.0)  # No start waits for it here.
        for number in range(20):
            won = starts(f"{bucket}/heeded/{number}", monkeypatch)
            assert len(won) == owners(won) == 1


def test_a_late_conditional_put_changes_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = iter([0.0, 0.0, 1.0])  # The winner's write and its check of the store; then the late write.

    def late(path: str) -> float:
        return next(turns, 0.0) if path.endswith("00001.json") else 0.0

    with s3_proxy.before(os.environ["AWS_ENDPOINT_URL"], s3_proxy.HEEDED, late) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setattr(attempts, "refuse_second_owner", lambda storage: 0)
        first, second = (Storage.at(f"{bucket}/late") for _ in range(2))
        claim(first)
        with pytest.raises(InputError, match="at the same moment"):
            claim(second)
        check_owner(first, 1)


@pytest.mark.parametrize("conditions", [s3_proxy.IGNORED, s3_proxy.REFUSED])
def test_without_conditional_writes_one_start_owns_the_run(
    bucket: str, monkeypatch: pytest.MonkeyPatch, conditions: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attempts, "SETTLE_S", 0.1)
    with s3_proxy.before(os.environ["AWS_ENDPOINT_URL"], conditions) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        for number in range(10):
            assert owners(starts(f"{bucket}/{conditions}/{number}", monkeypatch)) == 1
    assert "has no conditional writes" in caplog.text


def test_without_conditional_writes_a_late_put_ends_the_first(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start has waited and read its token back before the write of the second arrives."""
    monkeypatch.setattr(attempts, "SETTLE_S", 0.2)
    monkeypatch.setattr(attempts, "refuse_second_owner", lambda storage: 0)
    threads = threading.local()
    written = threading.Event()

    def token(storage: Storage, name: str, read: Callable[[Storage, str], str | None] = attempts._token) -> str | None:
        found = read(storage, name)
        if getattr(threads, "late", False) and found is None:
            written.wait(20)  # The second start has looked, and sends its write only then.
            time.sleep(0.5)
        return found

    monkeypatch.setattr(attempts, "_token", token)
    with s3_proxy.before(os.environ["AWS_ENDPOINT_URL"], s3_proxy.REFUSED) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        first, second = (Storage.at(f"{bucket}/late-without") for _ in range(2))

        def come_late() -> None:
            threads.late = True
            claim(second)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(come_late)
            time.sleep(0.5)
            claim(first)
            check_owner(first, 1)
            written.set()
            waiting.result(30)
        with pytest.raises(StageError, match="another start at the same moment"):
            check_owner(first, 1)
        check_owner(second, 1)


def test_credentials_and_endpoints_are_resolved_as_by_pyarrow(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from options of the URI or from a profile in the user's file."""
    place = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    options = f"?endpoint_override={place}&scheme=http&region=eu-west-1"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert Storage.at(f"{bucket}/a%20b/~%23{options}").create_json("x.json", {}) is True
    file = tmp_path / "credentials"
    file.write_text(f"[mine]\naws_access_key_id = tapir\naws_secret_access_key = {s3.SECRET}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert Storage.at(f"{bucket}/b{options}").create_json("x.json", {"a": 1}) is True
    assert Storage.at(f"{bucket}/b{options}").create_json("x.json", {"a": 2}) is False
    assert Storage.at(f"{bucket}/b{options}").read_json("x.json") == {"a": 1}


def test_a_write_whose_reply_was_lost_is_the_callers(bucket: str) -> None:
    storage = Storage.at(f"{bucket}/lost")
    assert [storage.create_json("x.json", {"token": "t"}) for _ in range(2)] == [True, True]
    assert storage.create_json("x.json", {"token": "u"}) is False


@pytest.mark.parametrize("remote", [False, True])
def test_a_state_written_by_another_process_is_not_replaced(bucket: str, tmp_path: Path, remote: bool) -> None:
    uri = f"{bucket}/state" if remote else str(tmp_path)

    class Behind(StateFiles):
        """Storage of a start that has looked before the other one wrote."""

        def versions(self) -> list[tuple[int, int]]:
            return []

    StateFiles(uri).write(1, {"n": 1})
    with pytest.raises(StageError, match=r"00001-000000\.json was written by another process of attempt 1"):
        Behind(uri).write(1, {"n": 2})
    assert StateFiles(uri).latest() == {"n": 1}
