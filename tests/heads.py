"""A Ray head for tests: processes of its own on loopback, with a dashboard and token authentication."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path

import psutil

from tapir_ray.llm.watch import identity, is_alive

BIN = Path(sys.executable).parent


class Head:
    """A head that is up; `stop` ends what it started and nothing else."""

    def __init__(self, cpus: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short, for socket paths
        self.output = self.folder / "output.txt"
        token = self.folder / "token"
        token.write_text(uuid.uuid4().hex)
        token.chmod(0o600)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        self.environment = {**kept, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        """For whoever speaks with it."""
        gcs, dashboard, agent, client = free_ports(4)
        self.url = f"http://127.0.0.1:{dashboard}"
        command = [
            str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}",
            "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}", "--min-worker-port=0",
            "--max-worker-port=0", f"--num-cpus={cpus}", "--num-gpus=0", f"--object-store-memory={512 * 2**20}",
            f"--temp-dir={self.folder / 'ray'}", "--disable-usage-stats",
        ]  # fmt: skip
        path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"  # a job calls `python`
        with self.output.open("ab") as stream:
            self._process = subprocess.Popen(
                command, stdout=stream, stderr=stream, cwd=self.folder, env={**self.environment, "PATH": path}
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def logs(self) -> Path:
        """The folder of its session's logs."""
        return self.folder / "ray" / "session_latest" / "logs"

    def stop(self) -> None:
        """End the head and what was started under it, and remove its folder."""
        family = []
        with suppress(psutil.NoSuchProcess):
            family = [identity(child.pid) for child in psutil.Process(self._process.pid).children(recursive=True)]
        self._process.kill()  # SIGTERM would drain the node first
        self._process.wait()
        for entry in family:
            if is_alive(entry):
                with suppress(ProcessLookupError):
                    os.kill(entry["pid"], signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self) -> None:
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(f"{self.url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
        deadline = time.monotonic() + 90
        while True:
            assert self._process.poll() is None, self.output.read_text()[-4000:]
            try:
                urllib.request.urlopen(request, timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.output.read_text()[-4000:]
            time.sleep(0.5)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
