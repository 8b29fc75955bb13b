"""A Ray head for tests: processes of its own on loopback, with a dashboard and token authentication."""

from __future__ import annotations

import json
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
from typing import Any

import psutil

from tapir_ray.llm.engine.watchdog import identity, is_alive

BIN = Path(sys.executable).parent
HEAD_ID = "f" * 51 + "00000"
AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
}
"""Variables of a head with an autoscaler whose nodes are processes of this machine."""


KEEPS_ITS_FOLDER = """
import os

folder, found = os.getcwd(), os.getcwd

def getcwd():
    try:
        return found()
    except FileNotFoundError:
        os.chdir(folder)
        return found()

os.getcwd = getcwd
"""
"""Code for every Python process of such a head. Its nodes share one session folder.
Ray unpacks a job's folder there again for each node, which removes the driver's working folder."""


class Head:
    """A running head; `stop` ends its processes and no others.

    With `most` it has Ray's real autoscaler, which adds up to `most` nodes of two CPUs: processes of this machine.
    """

    def __init__(self, cpus: int, most: int = 0, idle_s: float = 30.0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Short, for the paths of sockets.
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
        path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"  # A job calls `python`.
        environment = {**self.environment, "PATH": path}
        if most:
            file = self.folder / "autoscaling.json"
            file.write_text(json.dumps(autoscaling(f"127.0.0.1:{gcs}", most, idle_s)))
            command.append(f"--autoscaling-config={file}")
            (self.folder / "sitecustomize.py").write_text(KEEPS_ITS_FOLDER)
            environment |= {**AUTOSCALER, "PYTHONPATH": str(self.folder)}
        with self.output.open("ab") as stream:
            self._process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=self.folder, env=environment)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def logs(self) -> Path:
        """The folder of its session's logs."""
        return self.folder / "ray" / "session_latest" / "logs"

    def nodes(self) -> list[psutil.Process]:
        """Returns the nodes started by the autoscaler: of each, the process that is the parent of all others."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    ended = child.status() == psutil.STATUS_ZOMBIE
                    if child.name() == "raylet" and child.ppid() != self._process.pid and not ended:
                        found.append(child)
        return found

    def stop(self) -> None:
        """Ends the head and the processes started under it, and removes its folder."""
        family = []
        with suppress(psutil.NoSuchProcess):
            family = [identity(child.pid) for child in psutil.Process(self._process.pid).children(recursive=True)]
        self._process.kill()  # SIGTERM would drain the node first.
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


def autoscaling(gcs_address: str, most: int, idle_s: float) -> dict[str, Any]:
    """Returns the configuration of an autoscaler whose nodes are processes of this machine."""
    node = {"CPU": 2, "object_store_memory": 256 * 2**20}
    commands = ["initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"]
    commands += ["head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"]
    return {
        "cluster_name": "tapir-test",
        "max_workers": most,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs_address,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": most},
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **{name: [] for name in commands},
    }


def free_ports(count: int) -> list[int]:
    """Returns free ports of loopback."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
