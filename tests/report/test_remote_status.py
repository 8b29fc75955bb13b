"""`tapir status --address`: a job reads the status on the cluster; with a real head in test_submit.py."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobDetails, JobStatus

from tapir_ray import cli
from tapir_ray.cluster.jobs.remote_query import answered
from tapir_ray.errors import InputError, StageError
from tapir_ray.report import remote_status as module
from tapir_ray.report.remote_status import remote_status

LINE = '{"status": "running", "name": "mine"}'


class Head:
    """A client of a head that runs each job at once."""

    def __init__(self, log: str, exit_status: int, jobs: list[JobDetails]) -> None:
        self.log, self.exit_status, self.jobs = log, exit_status, jobs
        self.sent: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self.deleted: list[str] = []

    def list_jobs(self) -> list[JobDetails]:
        return self.jobs

    def submit_job(self, **fields: Any) -> None:
        self.sent = fields
        with zipfile.ZipFile(fields["runtime_env"]["working_dir"]) as package:
            self.files = {name: package.read(name).decode() for name in package.namelist()}

    def get_job_info(self, submission_id: str) -> JobDetails:
        status = "SUCCEEDED" if self.exit_status == 0 else "FAILED"
        return job(submission_id, status, driver_exit_code=self.exit_status)

    def get_job_logs(self, submission_id: str) -> str:
        return self.log

    def delete_job(self, submission_id: str) -> None:
        self.deleted.append(submission_id)


def job(submission_id: str, status: str, entrypoint: str = "e", **fields: Any) -> JobDetails:
    return JobDetails(
        type="SUBMISSION", submission_id=submission_id, status=JobStatus(status), entrypoint=entrypoint, **fields
    )


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the job's script."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "status.py").write_text("")
    return tmp_path


def looked(monkeypatch: pytest.MonkeyPatch, log: str = LINE, exit_status: int = 0, *jobs: JobDetails) -> Head:
    head = Head(log, exit_status, list(jobs))
    monkeypatch.setattr(module, "connect", lambda address: head)
    return head


def test_the_status_job_is_deleted_and_jobs_of_the_run_are_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("A_KEY", "its value")
    mine = job("tapir-0123456789ab-2", "RUNNING", "python jobs/distill.py c.yaml --run-dir s3://b/r --until score")
    other = job("tapir-0123456789ac-1", "RUNNING", "python jobs/distill.py c.yaml --run-dir s3://b/r2")
    head = looked(monkeypatch, f"warning: x\n{LINE}\n", 0, mine, other)
    found = remote_status("s3://b/r", "http://HEAD:8265", ["A_KEY"])
    assert found == {**json.loads(LINE), "jobs": {"tapir-0123456789ab-2": "RUNNING"}}
    assert head.sent["entrypoint"] == "python jobs/status.py s3://b/r --json"
    assert "its value" not in str(head.sent), "Ray writes a job's environment to its logs"
    assert json.loads(head.files[".tapir_forwarded.json"]) == {"A_KEY": "its value"} and "jobs/status.py" in head.files
    assert head.deleted == [head.sent["submission_id"]]
    assert cli.main(["status", "s3://b/r", "--address", "http://HEAD:8265", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_an_error_of_the_status_job_is_reported(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = looked(monkeypatch, "tapir: /shared/r holds no run (no config.yaml)\n", 2)
    with pytest.raises(InputError, match="on the cluster: /shared/r holds no run"):
        remote_status("/shared/r", "http://HEAD:8265")
    assert head.deleted


@pytest.mark.parametrize(
    ("log", "exit_status", "expected"),
    [
        ("Traceback\nModuleNotFoundError: tapir_ray", 1, "ModuleNotFoundError"),
        ("", 1, "it left no log"),
        ("x", None, "x"),
    ],
)
def test_a_status_job_without_an_answer_is_an_error(log: str, exit_status: int | None, expected: str) -> None:
    with pytest.raises(StageError, match=expected):
        answered(log, exit_status)


def test_files_with_keys_are_named_and_not_sent(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head = looked(monkeypatch)
    (tree / ".npmrc").write_text("//registry/:_authToken=planted")
    (tree / "gcp.json").write_text('{"type": "service_account"}')
    remote_status("s3://b/r", "http://HEAD:8265")
    assert set(head.files) == {"jobs/status.py"}
    captured = capsys.readouterr()
    assert "tapir: not sent, since they may hold keys: .npmrc, gcp.json; " in captured.err and captured.out == ""


def test_mistakes_are_refused_before_anything_is_sent(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = looked(monkeypatch)
    with pytest.raises(InputError, match="URI, or its absolute path"):
        remote_status("runs/mine", "http://HEAD:8265")
    with pytest.raises(InputError, match="holds a key"):
        remote_status("s3://id:key@b/r", "http://HEAD:8265")
    with pytest.raises(InputError, match="NOT_SET: this variable is not set"):
        remote_status("s3://b/r", "http://HEAD:8265", ["NOT_SET"])
    (tree / "jobs" / "status.py").unlink()
    with pytest.raises(InputError, match=r"has no jobs/status\.py"):
        remote_status("s3://b/r", "http://HEAD:8265")
    assert not head.sent
