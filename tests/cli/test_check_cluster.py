"""`tapir check --address` lists the resources that a cluster lacks with the keys to change; with a real head at the
end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tapir_ray import cli
from tapir_ray.cli import check_cluster as module
from tapir_ray.cluster.capacity import shortage
from tapir_ray.config import Config
from tapir_ray.errors import InputError
from tests.heads import Head
from tests.report.test_remote_status import Head as JobsHead
from tests.runs import ROOT, SIMULATED, write_config

NODES = [{"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}] * 3
CLAIMS = ["resources.student={gpus: 1, replicas: 4, min_replicas: 2}", "resources.train.gpus=1"]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of three machines with a GPU each; two of its workers answer."""

    @contextmanager
    def session(config: Config) -> Iterator[None]:
        if short := shortage(config, NODES):
            raise InputError(short)
        yield

    monkeypatch.setenv("RAY_ADDRESS", "unset")
    monkeypatch.setattr(module, "session", session)
    monkeypatch.setattr(module, "second_worker", nullcontext)
    monkeypatch.setattr(module, "possible_nodes", lambda: NODES)
    monkeypatch.setattr(module, "check_storage", lambda run, config: ["one", "two"])
    monkeypatch.setattr(module, "model_problems", lambda config: [])


def test_a_config_that_fits_lists_its_nodes_and_claims(
    tmp_path: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run_dir = str(write_config(tmp_path)), str(tmp_path / "run")
    command = ["check", path, "--run-dir", run_dir, "--address", "127.0.0.1:6379", "--set", *CLAIMS]
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    assert "nodes, present or to be added: 3 with 8 CPU, 1 GPU, 1 accelerator_type:L4" in output
    assert "resources.student: 3 of 4 with 1 CPUs and 1 GPUs fit at once" in output
    assert f"run_dir {run_dir}: read, written and deleted by workers on one, two" in output
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {part["name"]: part["places"] for part in found["claims"]} == {"student": 3, "train": 3}
    assert (found["models"], found["seen_by"], found["stops_for"]) == ([], ["one", "two"], [])
    local = ["teacher={engine: vllm, model: t}", "judge={same_as: teacher}", "resources.teacher.gpus=1"]
    command = [word.replace("min_replicas: 2", "min_replicas: 3") for word in command]
    assert cli.main([*command, *local, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["models"], found["stops_for"]) == (["t"], ["student"])


def test_all_claims_that_never_fit_are_named_at_once(
    tmp_path: Path, cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_config(tmp_path))
    claims = ["resources.student={gpus: 1, tensor_parallel: 2}", "resources.train={gpus: 1, accelerator_type: A100}"]
    command = ["check", path, "--run-dir", str(tmp_path / "run"), "--address", "127.0.0.1:6379", "--set", *claims]
    assert cli.main(command) == 2
    output = capsys.readouterr().err
    assert "resources.train.accelerator_type is A100, which no node of the cluster has" in output
    assert "; resources.student needs 1 workers of 2 CPUs and 2 GPUs, each on one node" in output


def test_a_model_that_workers_cannot_load_is_refused(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "model_problems", lambda config: ["student.model a/b is gated", "teacher.model c/d …"])
    command = ["check", str(write_config(tmp_path)), "--run-dir", str(tmp_path / "run"), "--address", "auto"]
    assert cli.main(command) == 2
    assert "tapir: student.model a/b is gated; teacher.model c/d …" in capsys.readouterr().err


def test_an_address_of_a_dashboard_is_checked_by_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "check.py").write_text("")
    answer = {
        "nodes": [],
        "claims": [],
        "stops_for": ["train"],
        "models": ["a/b"],
        "run_dir": "s3://b/r",
        "seen_by": [],
    }
    head = JobsHead(f"a warning\n{json.dumps(answer)}\n", 0, [])
    monkeypatch.setattr(module, "connect", lambda address: head)
    command = ["check", "config.yaml", "--address", "http://HEAD:8265", "--set", "random_seed=7", "--run-dir"]
    assert cli.main([*command, "s3://b/r"]) == 0
    assert head.sent["entrypoint"] == ("python jobs/check.py config.yaml --set random_seed=7 --run-dir s3://b/r --json")
    assert "local models stop while resources.train is in use" in capsys.readouterr().out
    assert cli.main([*command, "runs/mine"]) == 2
    assert "--run-dir runs/mine would be in the job's working folder" in capsys.readouterr().err
    assert cli.main([*command, "s3://b/r", "--pilot", "5"]) == 2
    head.log, head.exit_status = "tapir: resources.train needs 64 CPUs\n", 2
    assert cli.main([*command, "s3://b/r"]) == 2
    assert "tapir: on the cluster: resources.train needs 64 CPUs" in capsys.readouterr().err


@pytest.mark.restart
@pytest.mark.timeout(300)
def test_a_real_head_is_checked(tmp_path: Path) -> None:
    head = Head(cpus=4)
    try:
        found = check_on(head, tmp_path)
        assert found.returncode == 0, found.stderr
        output = json.loads(found.stdout.splitlines()[-1])
        assert [(node["CPU"], node["count"]) for node in output["nodes"]] == [(4.0, 1)]
        short = check_on(head, tmp_path, "resources.train.cpus=64")
        assert short.returncode == 2 and "resources.train needs 64 CPUs" in short.stderr, short.stderr
        missing = check_on(head, tmp_path, "student.create=null", "student.model=/no/such/folder")
        assert missing.returncode == 2 and "student.model /no/such/folder is not a folder on " in missing.stderr, (
            missing.stderr
        )
    finally:
        head.stop()


@pytest.mark.restart
@pytest.mark.timeout(300)
def test_a_worker_added_by_the_autoscaler_is_checked(tmp_path: Path) -> None:
    """True also of a head with CPUs: the head's files may differ from those of its workers."""
    head = Head(cpus=2, most=1)
    try:
        found = check_on(head, tmp_path)
        assert found.returncode == 0, found.stderr
        assert len(json.loads(found.stdout.splitlines()[-1])["seen_by"]) == 1
        assert len(head.nodes()) == 1
    finally:
        head.stop()


def check_on(head: Head, folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Runs `tapir check` of a small config in a tree with the files that a job needs."""
    tree = folder / "tree"
    if not tree.exists():
        for name in ("tapir_ray", "jobs"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        write_config(tree, SIMULATED)
    command = [sys.executable, "-m", "tapir_ray.cli", "check", "config.yaml", "--address", head.url, "--run-dir"]
    return subprocess.run(
        [*command, str(folder / "run"), "--json", "--set", "random_seed=0", *settings],
        capture_output=True,
        text=True,
        cwd=tree,
        env=head.environment,
    )
