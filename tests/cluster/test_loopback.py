"""Servers that a run starts on this machine: unreachable over the network and for other users."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tapir_ray.cluster.session import close_token
from tests.runs import ROOT

SHOW = """
import json, os, psutil, stat, sys
from tapir_ray import cli

def verb(options):
    from tapir_ray.cluster.session import session
    from tapir_ray.config import load
    with session(load("tests/loop.yaml")):
        import ray
        ray.get(ray.remote(num_cpus=0.1)(lambda: 1).remote())
        folder = ray._private.worker._global_node.get_temp_dir_path()
        mine = psutil.Process()
        listening = [c.laddr[0] for p in [mine, *mine.children(recursive=True)] for c in p.net_connections("tcp")
                     if c.status == psutil.CONN_LISTEN]
        modes = [stat.S_IMODE(os.stat(os.path.dirname(folder)).st_mode), stat.S_IMODE(os.stat(folder).st_mode)]
        print(json.dumps({"folder": folder, "modes": modes, "listening": listening}))
    return 0

sys.exit(cli.ended(verb, None))
"""


@pytest.mark.restart
def test_a_local_run_listens_on_loopback_and_writes_to_a_private_folder(tmp_path: Path) -> None:
    """The shell's umask lets everybody read and write new files."""
    (tmp_path / "show.py").write_text(SHOW)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "TMPDIR"}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "show.py")],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: os.umask(0),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["listening"]) > 4
    assert {address.removeprefix("::ffff:") for address in found["listening"]} <= {"127.0.0.1", "::1"}
    assert found["modes"][0] == 0o700 and Path(found["folder"]).parent.name == f"tapir-{os.geteuid()}"
    assert not Path(found["folder"]).exists()
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600


def test_the_token_of_ray_is_readable_by_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / ".ray" / "auth_token"
    close_token()
    token = file.read_text()
    assert len(token) == 64 and stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)  # The file as Ray writes it.
    close_token()
    assert file.read_text() == token and stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "mine"))
    close_token()
    assert not file.exists()
