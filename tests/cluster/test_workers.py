"""Checks on workers: an unshared folder and a gated model are found before anything is spent."""

from __future__ import annotations

import functools
import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import ray

from tapir_ray.cluster import workers as module
from tapir_ray.cluster.interrupt import interruptible
from tapir_ray.cluster.workers import check_storage, models, on_workers, refuse_other_machines, try_models, try_storage
from tapir_ray.config import Config, parse
from tapir_ray.errors import InputError, StageError
from tapir_ray.run.run import Run

SMALL = {"name": "x", "seed_data": {"path": "a"}, "student": {"model": "owner/student"}}
REFUSALS = {"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "student": (404, "RevisionNotFound")}


def config(**sections: Any) -> Config:
    return parse({**SMALL, **sections})


def seen_from(folders: list[Path]) -> Callable[..., list[Any]]:
    """Replaces workers that each have a folder of their own under the run's name."""

    def look(function: Any, config: Config, uri: str, name: str, **_: Any) -> list[Any]:
        return [function(str(folder), name) for folder in folders]

    return look


def test_a_shared_folder_is_written_to_and_left_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "on_workers", seen_from([tmp_path / "run"] * 2))
    run = Run.open(config(), str(tmp_path / "run"))
    before = run.children("")
    assert len(check_storage(run, config())) == 2
    assert run.children("") == before


def test_a_local_folder_of_each_worker_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other node" / "run"
    monkeypatch.setattr(module, "on_workers", seen_from([tmp_path / "run", other]))
    run = Run.open(config(), str(tmp_path / "run"))
    with pytest.raises(InputError, match=r"run_dir .*does not see what the driver writes there; give .* --run-dir: s3"):
        check_storage(run, config())
    assert run.children("") == ["config.yaml"]

    def elsewhere(function: Any, config: Config, uri: str, name: str, **_: Any) -> list[Any]:
        """A worker that finds the file, but writes to a folder that the driver does not read."""
        other.mkdir(parents=True)
        (other / name).write_text(name)
        return [function(str(other), name)]

    monkeypatch.setattr(module, "on_workers", elsewhere)
    with pytest.raises(InputError, match="writes to another folder of this name"):
        check_storage(run, config())


def test_a_worker_that_joins_without_the_shared_folder_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker is checked once, or again if it did not answer."""
    tried: list[list[str]] = []
    folders = {"new": tmp_path / "run", "slow": tmp_path / "run", "other": tmp_path / "other"}

    def look(function: Any, config: Config, uri: str, name: str, *, nodes: list[str], **_: Any) -> list[Any]:
        tried.append(nodes)
        if nodes == ["slow"] and len(tried) == 2:
            raise StageError("no worker answered in 8 s")
        return [function(str(folders[node]), name) for node in nodes]

    here = ["head", "first"]
    monkeypatch.setattr(module, "on_workers", look)
    monkeypatch.setattr(module, "_able", lambda: list(here))
    monkeypatch.setattr(module, "TRY_S", 0.05)
    run = Run.open(config(), str(tmp_path / "run"))
    before = run.children("")
    refused = pytest.raises(InputError, match=r"run_dir .*does not see what the driver writes there")
    with refused, interruptible(), module.storage_watched(run, config()):
        for node in ("new", "slow", "other"):
            time.sleep(0.3)
            here.append(node)
        time.sleep(30)
    assert tried == [["new"], ["slow"], ["slow"], ["other"]]
    assert run.children("") == before


def test_a_failure_on_a_worker_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _, _, problem = try_storage(str(tmp_path / "file"), "x")
    assert "cannot read, write and delete there" in problem and "is a file" in problem


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with the same refusals as the real one."""

    def do_HEAD(self) -> None:
        _, owner, *_ = self.path.split("/")
        status, code = REFUSALS[owner]
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fetch = functools.partial(
        huggingface_hub.hf_hub_download,
        endpoint=f"http://127.0.0.1:{server.server_address[1]}",
        cache_dir=tmp_path / "cache",
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    yield
    server.shutdown()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("gated/model", "student.model gated/model is gated, and .* accept its terms at https://huggingface.co/gated/"),
        ("missing/model", "student.model missing/model is neither a folder on .* nor a model that its account sees"),
        ("student/model", "student.model student/model has no revision v7"),
    ],
)
def test_a_gated_model_is_refused(hub: None, model: str, words: str) -> None:
    (problem,) = try_models([("student.model", model, "v7")])
    assert re.search(words, problem)


def test_model_folders_and_uris_are_checked(tmp_path: Path) -> None:
    whole, empty = tmp_path / "whole", tmp_path / "empty"
    for folder in (whole, empty):
        folder.mkdir()
    (whole / "config.json").write_text("{}")
    named = [("student.model", place, None) for place in (str(whole), f"file://{whole}", str(empty), "/no/such")]
    none, absent = try_models(named)
    assert none.startswith(f"student.model {empty} has no config.json")
    assert absent.startswith("student.model /no/such is not a folder on ")


def test_an_offline_machine_needs_the_model_in_its_cache(tmp_path: Path) -> None:
    (problem,) = try_models([("classify.model", "owner/never-fetched", None)])
    assert problem.startswith("classify.model owner/never-fetched cannot be loaded on ")


def test_the_models_that_workers_load_are_listed() -> None:
    assert models(config()) == [("student.model", "owner/student", None)]
    local = {"engine": "vllm", "model": "owner/teacher"}
    labels = {"model": "owner/classifier"}
    own = config(student={"model": "s", "revision": "v1"}, teacher=local, classify={**labels, "by": "deberta"})
    assert models(own) == [
        ("student.model", "s", "v1"),
        ("classify.model", "owner/classifier", None),
        ("teacher.model", "owner/teacher", None),
    ]
    assert models(config(student={"create": {}, "max_model_len": 512}, train={"sequence_length": 512})) == []


def test_a_single_node_is_not_checked(ray_local: None) -> None:
    assert on_workers(try_storage, config(), "/x", "y") == []


def test_a_simulator_unreachable_for_other_machines_is_refused(
    ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_other_machines()
    (mine,) = ray.nodes()
    second = {**mine, "NodeID": "another"}
    monkeypatch.setattr(ray, "nodes", lambda: [mine, second, {**second, "NodeManagerAddress": "x", "Alive": False}])
    refuse_other_machines()
    monkeypatch.setattr(ray, "nodes", lambda: [mine, {**second, "NodeManagerAddress": "10.9.9.9"}])
    with pytest.raises(InputError, match=r"simulator: .* nodes on 10\.9\.9\.9; give teacher\.base_url"):
        refuse_other_machines()
