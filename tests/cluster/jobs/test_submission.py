"""Submissions: ids, attempts, the command, and the mistakes that are refused before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.job_submission import JobDetails, JobStatus

from tapir_ray import cli
from tapir_ray.cluster.jobs import submit
from tapir_ray.cluster.jobs.submit import Submission, attempts, check, exit_status, living, next_id
from tapir_ray.config import load
from tapir_ray.errors import InputError

HASH = "0123456789ab"


def job(submission_id: str | None, status: str = "SUCCEEDED", **fields: Any) -> JobDetails:
    return JobDetails(
        type="SUBMISSION", submission_id=submission_id, status=JobStatus(status), entrypoint="e", **fields
    )


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a job and a config."""
    monkeypatch.chdir(tmp_path)
    content = {"name": "mine", "student": {"model": "owner/student"}, "seed_data": {"path": "owner/rows"}}
    for name in ("jobs/distill.py", "jobs/score.py", "jobs/helpers/deep.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def submission(*overrides: str, run_dir: str = "s3://b/r", path: str = "c.yaml", **fields: Any) -> Submission:
    return Submission(load(path, list(overrides)), path, run_dir, fields.pop("job", "distill"), overrides, **fields)


def test_equal_runs_have_equal_hashes_however_they_are_started(tree: Path) -> None:
    same = submission().run_hash
    assert len(same) == 12 and same.isalnum()
    for other in (
        submission(run_dir="s3://b/r/"),
        submission("budget.max_tokens=5", "resources.rows_per_block=8"),
        submission(job="score", arguments=("--until", "mix")),
    ):
        assert other.run_hash == same
    assert submission(run_dir="/shared/r").run_hash == submission(run_dir="/shared//r/").run_hash
    assert len({same, submission(run_dir="s3://b/q").run_hash, submission("random_seed=1").run_hash}) == 3


@pytest.mark.parametrize(
    ("jobs", "alive", "following"),
    [
        ([], None, 1),
        ([job(f"tapir-{HASH}-1", "RUNNING")], f"tapir-{HASH}-1", 2),
        ([job(f"tapir-{HASH}-1", "PENDING")], f"tapir-{HASH}-1", 2),
        ([job(f"tapir-{HASH}-1", "FAILED"), job(f"tapir-{HASH}-2", "STOPPED")], None, 3),
        ([job(f"tapir-{HASH}-10"), job(f"tapir-{HASH}-9")], None, 11),
        ([job(f"tapir-{HASH}-3", "RUNNING"), job(f"tapir-{HASH}-2", "FAILED")], f"tapir-{HASH}-3", 4),
        # Jobs of other people, a driver without a submission, names similar to ours.
        ([job("tapir-ffffffffffff-7", "RUNNING"), job(None, "RUNNING"), job(f"tapir-{HASH}-x", "RUNNING")], None, 1),
        ([job(f"tapir-{HASH}-1-2", "RUNNING"), job(f"my-tapir-{HASH}-5", "RUNNING")], None, 1),
    ],
)
def test_the_next_attempt_starts_after_the_last_has_ended(
    jobs: list[JobDetails], alive: str | None, following: int
) -> None:
    found = attempts(jobs, HASH)
    running = living(found)
    assert (running.submission_id if running else None) == alive
    assert next_id(found, HASH) == f"tapir-{HASH}-{following}"


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        (job("a", driver_exit_code=0), 0),
        (job("a", "FAILED", driver_exit_code=1), 1),
        (job("a", "FAILED", driver_exit_code=2), 2),
        (job("a", "FAILED", driver_exit_code=3), 3),
        (job("a", "FAILED", driver_exit_code=-9), 137),
        (job("a", "FAILED", message="runtime_env setup failed"), 1),
        (job("a", "STOPPED"), 3),
    ],
)
def test_the_exit_status_is_that_of_the_job(ended: JobDetails, status: int) -> None:
    assert exit_status(ended) == status


def test_the_command_of_the_job_is_quoted_for_a_shell(tree: Path) -> None:
    given = submission("seed_data.license=CC BY", run_dir="/shared/a;b", arguments=("--until", "mix"))
    expected = "python jobs/distill.py c.yaml --set 'seed_data.license=CC BY' --run-dir '/shared/a;b' --until mix"
    assert given.entrypoint == expected
    there = submission(path=str(tree / "c.yaml"))
    assert there.entrypoint == "python jobs/distill.py c.yaml --run-dir s3://b/r"


@pytest.mark.parametrize(
    ("overrides", "fields", "words"),
    [
        ((), {"job": "destill"}, "--job destill: there is no jobs/destill.py here; choose one of distill, score"),
        ((), {"run_dir": "runs/mine"}, "--run-dir runs/mine would be in the job's working folder"),
        (("cache.dir=cache",), {}, "cache.dir cache would be in the job's working folder"),
        (("seed_data.path=rows.jsonl",), {}, "seed_data.path rows.jsonl is not sent"),
        (("seed_data.path=../rows.jsonl",), {}, r"seed_data.path \.\./rows.jsonl is not sent"),
        (("prompts.dir=prompts",), {}, "prompts.dir prompts is not sent"),
        (("teacher={engine: vllm, model: prompts}",), {}, "teacher.model prompts is not sent"),
        (("simulator={scenario: rows.jsonl}",), {}, "simulator.scenario rows.jsonl is not sent"),
        ((), {"path": "../c.yaml"}, r"CONFIG \.\./c.yaml is not sent"),
        ((), {"path": "left_out.yaml"}, "CONFIG left_out.yaml is not sent"),
    ],
)
def test_files_that_the_job_would_lack_are_refused(
    tree: Path, overrides: tuple[str, ...], fields: dict[str, Any], words: str
) -> None:
    text = (tree / "c.yaml").read_text()
    (tree / "prompts").mkdir()
    for name in ("left_out.yaml", "../c.yaml", "rows.jsonl", "../rows.jsonl", "prompts/expand.jinja"):
        (tree / name).write_text(text)
    with pytest.raises(InputError, match=words):
        check(submission(*overrides, **fields), ["c.yaml", "jobs/distill.py", "jobs/score.py", "jobs/helpers/deep.py"])


@pytest.mark.parametrize(
    ("overrides", "fields"),
    [
        ((), {"run_dir": "s3://id:planted@b/r"}),
        (("seed_data.path=s3://id:planted@b/rows",), {}),
        (("student.model=s3://b/m?secret_key=planted",), {}),
        (("filter.evaluation_sets=['s3://b/a?region=x', 's3://id:planted@b/e']",), {}),
        (("cache.dir=s3://id:plan/ted@b/cache",), {}),
        (("run_dir=gs://id:planted@b/r",), {}),  # The config also stands in the command, although --run-dir wins.
        ((), {"arguments": ("--from", "classify=s3://id:planted@b/t")}),
    ],
)
def test_a_key_in_a_uri_is_not_sent(
    tree: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], fields: dict[str, Any]
) -> None:
    """The head would store the job's command and show it in the dashboard."""
    monkeypatch.setattr(submit, "connect", lambda address: pytest.fail("a head was asked"))
    with pytest.raises(InputError, match=r":// holds a key; set AWS_ACCESS_KEY_ID") as error:
        submit.submit(submission(*overrides, **fields), "http://h:8265")
    assert "plan" not in str(error.value)


def test_a_key_in_the_config_file_is_not_sent(tree: Path) -> None:
    content = yaml.safe_load((tree / "c.yaml").read_text())
    content["seed_data"]["path"] = "s3://id:planted@b/rows"
    (tree / "c.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="a URI of s3:// holds a key"):
        check(submission(), ["c.yaml", "jobs/distill.py"])


def test_files_that_are_sent_or_on_the_cluster_are_not_refused(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "prompts").mkdir()
    (tree / "prompts/expand.jinja").write_text("")
    sent = ["c.yaml", "jobs/distill.py", "prompts/expand.jinja"]
    check(submission("prompts.dir=prompts", "seed_data.path=/shared/rows.jsonl"), sent)
    assert capsys.readouterr().err == ""
    check(submission(run_dir="/shared/r"), sent)
    assert "/shared/r must be a folder that all nodes of the cluster share" in capsys.readouterr().err


def test_a_folder_without_jobs_is_no_checkout(tree: Path) -> None:
    with pytest.raises(InputError, match="submit from the root of a checkout of tapir-ray"):
        check(submission(), ["c.yaml"])


class Cluster:
    """A head with a list of jobs."""

    def __init__(self, *jobs: JobDetails) -> None:
        self.jobs = list(jobs)
        self.submitted: list[dict[str, Any]] = []

    def list_jobs(self) -> list[JobDetails]:
        return self.jobs

    def submit_job(self, **fields: Any) -> None:
        self.submitted.append(fields)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> JobDetails:
    """The result of following any job."""
    ended = job("x", "FAILED", driver_exit_code=3)
    monkeypatch.setattr(submit, "follow", lambda client, submission_id: ended)
    return ended


def test_a_new_attempt_forwards_the_named_variables_and_no_others(
    tree: Path, monkeypatch: pytest.MonkeyPatch, ended: JobDetails
) -> None:
    given = submission()
    cluster = Cluster(job(f"tapir-{given.run_hash}-4", "FAILED"))
    monkeypatch.setattr(submit, "connect", lambda address: cluster)
    monkeypatch.setenv("TAPIR_PLANTED", "sk-planted")
    arguments = ["submit", "c.yaml", "--job", "distill", "--address", "http://h:8265", "--run-dir", "s3://b/r"]
    assert cli.main([*arguments, "--env", "TAPIR_PLANTED", "--", "--until", "mix"]) == 3
    assert cli.main(arguments) == 3
    named, bare = cluster.submitted
    assert named["submission_id"] == f"tapir-{given.run_hash}-5"
    assert named["entrypoint"] == "python jobs/distill.py c.yaml --run-dir s3://b/r --until mix"
    # Ray writes a runtime_env to its logs.
    assert set(named["runtime_env"]["env_vars"]) == {"RAY_JOB_STOP_WAIT_TIME_S"}
    assert "planted" not in str(named)
    assert named["runtime_env"]["worker_process_setup_hook"] == "tapir_ray.cluster.jobs.env_vars.load"
    assert "worker_process_setup_hook" not in bare["runtime_env"]


def test_files_that_may_hold_keys_are_named_and_not_sent(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ended: JobDetails
) -> None:
    packed: list[str] = []
    monkeypatch.setattr(submit, "connect", lambda address: Cluster())
    monkeypatch.setattr(submit, "pack", lambda tree, files, private, target: packed.extend(files))
    submit.submit(submission(), "http://h:8265")
    assert "may hold keys" not in capsys.readouterr().err
    (tree / ".env.local").write_text("KEY=planted")
    (tree / "jobs/cluster.pem").write_text("planted")
    submit.submit(submission(), "http://h:8265")
    assert "not sent, since they may hold keys: .env.local, jobs/cluster.pem;" in capsys.readouterr().err
    assert "c.yaml" in packed and ".env.local" not in packed and "jobs/cluster.pem" not in packed


def test_a_running_job_is_attached_to(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ended: JobDetails
) -> None:
    given = submission()
    cluster = Cluster(job(f"tapir-{given.run_hash}-1", "RUNNING", metadata={"tapir_job": "distill"}))
    monkeypatch.setattr(submit, "connect", lambda address: cluster)
    assert submit.submit(given, "http://h:8265") == 3
    assert cluster.submitted == []
    assert f"tapir-{given.run_hash}-1 already works on this run" in capsys.readouterr().err
    with pytest.raises(InputError, match="as --job distill, not score: wait for its end, or give --job distill"):
        submit.submit(submission(job="score"), "http://h:8265")
    with pytest.raises(InputError, match="as --job distill, not score"):
        submit.stop(submission(job="score"), "http://h:8265")


def test_the_second_of_two_simultaneous_submits_attaches(
    tree: Path, monkeypatch: pytest.MonkeyPatch, ended: JobDetails
) -> None:
    given = submission()

    class Raced(Cluster):
        def submit_job(self, **fields: Any) -> None:
            self.jobs.append(job(fields["submission_id"], "PENDING", metadata=fields["metadata"]))
            raise RuntimeError("Request failed with status code 400: ... already exists.")

    cluster = Raced()
    monkeypatch.setattr(submit, "connect", lambda address: cluster)
    assert submit.submit(given, "http://h:8265") == 3
    assert [found.submission_id for found in cluster.jobs] == [f"tapir-{given.run_hash}-1"]


def test_ctrl_c_detaches(tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(client: object, submission_id: str) -> JobDetails:
        raise KeyboardInterrupt

    cluster = Cluster()
    monkeypatch.setattr(submit, "connect", lambda address: cluster)
    monkeypatch.setattr(submit, "follow", interrupted)
    arguments = ["submit", "c.yaml", "--job", "distill", "--address", "http://h:8265", "--run-dir", "s3://b/r"]
    assert cli.main(arguments) == 3
    stderr = capsys.readouterr().err
    assert "the same command attaches again, and with --stop it ends the job" in stderr


def test_stop_without_a_job_says_so(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = submission()
    cluster = Cluster(job(f"tapir-{given.run_hash}-1", "FAILED"))
    monkeypatch.setattr(submit, "connect", lambda address: cluster)
    with pytest.raises(
        InputError, match="no job of tapir submit works on s3://b/r at http://h:8265: there is nothing to stop"
    ):
        submit.stop(given, "http://h:8265")


def test_a_variable_that_is_not_forwarded_is_named(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ended: JobDetails
) -> None:
    monkeypatch.setattr(submit, "connect", lambda address: Cluster())
    monkeypatch.setenv("TAPIR_PLANTED", "sk-planted")
    submit.submit(submission("teacher.api_key_env=TAPIR_PLANTED"), "http://h:8265")
    assert "teacher.api_key_env: the cluster must have TAPIR_PLANTED itself, or add it to --env" in (
        capsys.readouterr().err
    )
    submit.submit(submission("teacher.api_key_env=TAPIR_PLANTED"), "http://h:8265", ["TAPIR_PLANTED"])
    assert "TAPIR_PLANTED itself" not in capsys.readouterr().err


def test_a_job_of_a_changed_config_can_be_stopped(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first request to stop the job fails, as requests to a busy head may."""

    class Stopping(Cluster):
        asked = 0

        def stop_job(self, submission_id: str) -> None:
            Stopping.asked += 1
            if Stopping.asked == 1:
                raise RuntimeError("Request failed with status code 500")

        def get_job_status(self, submission_id: str) -> JobStatus:
            assert submission_id == mine.submission_id
            return JobStatus.STOPPED if Stopping.asked > 1 else JobStatus.RUNNING

    before = submission("random_seed=1")
    mine = job(f"tapir-{before.run_hash}-1", "RUNNING", metadata={"tapir_job": "distill"})
    mine.entrypoint = before.entrypoint
    looks = job("tapir-check-00", "RUNNING")
    looks.entrypoint = before.entrypoint
    monkeypatch.setattr(submit, "connect", lambda address: Stopping(looks, mine))
    monkeypatch.setattr(submit, "POLL_S", 0.01)
    submit.stop(submission(), "http://h:8265")
    stderr = capsys.readouterr().err
    assert f"{mine.submission_id} works on s3://b/r with another config: {before.entrypoint}" in stderr
    assert f"{mine.submission_id} STOPPED" in stderr
    with pytest.raises(InputError, match="nothing to stop"):
        submit.stop(submission(run_dir="s3://b/other"), "http://h:8265")
