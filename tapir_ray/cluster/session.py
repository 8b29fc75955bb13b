"""Connects a run to a Ray cluster, or starts Ray on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from tapir_ray.cluster.capacity import possible_nodes, shortage, stopped_by_lost_nodes
from tapir_ray.cluster.interrupt import interruptible
from tapir_ray.cluster.logs import native_errors_to, quiet, quiet_imports
from tapir_ray.cluster.private_folder import private_folder
from tapir_ray.config import Config
from tapir_ray.errors import InputError, Stopped

SOCKET_PATH_LIMIT = 107
"""Most bytes in the path of a Unix socket on Linux."""
SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
"""Longest path that Ray appends to its folder."""
IDLE_WORKER_MS = 300_000
"""Milliseconds that an idle worker process is kept for the next stage."""
SAME_SIGNAL_S = 2.0
"""Seconds in which a second signal is the first one again: timeout(1) signals a process and then its group."""
_stopped_at: list[float] = []
"""Time of the first signal, until the outermost `stopped_by_signals` is left."""
_entered: list[None] = []
"""An entry for each `stopped_by_signals` that is entered."""
LOG_LEVELS = {"ray.train": logging.ERROR, "ray.serve": logging.ERROR}
"""Log levels of libraries in the driver whose loggers are set up late (others: `logs.py`)."""


@contextmanager
def session(config: Config, signals: bool = True) -> Iterator[list[Path]]:
    """Connects to the cluster of `RAY_ADDRESS` (set in a Ray job), or starts a local Ray; shuts down at the end.

    A Ray that is already initialised is used, and not shut down.

    With `signals`, SIGTERM and Ctrl-C raise Stopped in the main thread, and watchers raise their errors there. Without
    them no handler is left installed, and errors of watchers end the pipeline that runs.

    Gives the folders with log files: that of the driver and, for a local Ray, that of all its processes. They are
    deleted at the end. Raises InputError if the config claims more resources than the cluster can have.
    """
    set_environment(here=True)
    import ray
    import ray.data

    from tapir_ray.cluster.pipeline_monitor import Watched

    folder, spill = None, None
    show_logs = bool(os.environ.get("TAPIR_WORKER_LOGS"))
    of_caller, handler = ray.is_initialized(), signal.getsignal(signal.SIGTERM)
    logs = [Path(tempfile.mkdtemp(dir=private_folder(), prefix="log-"))]
    ending = ExitStack()
    try:
        opening = ending.enter_context(ExitStack())
        if of_caller:
            ending.enter_context(quiet_imports())
        elif not show_logs:
            ending.enter_context(quiet(logs[0] / "driver.log"))
            opening.enter_context(native_errors_to(logs[0] / "driver-core.log"))
        if of_caller:
            pass
        elif os.environ.get("RAY_ADDRESS"):
            ray.init(logging_level=logging.WARNING, log_to_driver=show_logs)
        else:
            folder, spill = ray_folder()
            close_token()
            close_libraries(Path(folder).parent)
            memory = config.resources.object_store_gb
            ray.init(
                address="local",
                num_cpus=config.resources.cpus or os.cpu_count(),
                include_dashboard=False,
                object_store_memory=int(memory * 1024**3) if memory else None,
                logging_level=logging.WARNING,
                log_to_driver=show_logs,
                _temp_dir=folder,
                object_spilling_directory=spill,
                # The next stage reuses idle processes; a new one spends seconds on imports.
                _system_config={"idle_worker_killing_time_threshold_ms": IDLE_WORKER_MS},
            )
            logs.append(Path(folder) / "session_latest" / "logs")
        opening.close()
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        # The newer Parquet reader starts a pool of actors for every read, which takes seconds on a small machine.
        context.use_datasource_v2 = False
        context.execution_no_progress_timeout_s = config.resources.no_progress_timeout_s
        context.custom_execution_callback_classes = [Watched]
        context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
        for name, level in LOG_LEVELS.items():
            logging.getLogger(name).setLevel(level)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ray")
        # Hints about the number of concurrent tasks, on which nobody can act.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.data")
        if short := shortage(config, possible_nodes()):
            raise InputError(short)
        if not signals and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has set its own
        with (
            ray.data.DataContext.current(context),
            stopped_by_signals() if signals else nullcontext(),
            interruptible(signals),
            stopped_by_lost_nodes(config),
        ):
            yield logs
    finally:
        if not of_caller:
            ray.shutdown()
        ending.close()
        for path in (folder, spill, logs[0]):
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)


def ray_folder() -> tuple[str, str | None]:
    """(a new folder for Ray's files, a separate folder for spilled objects or None if they go to the first).

    Ray makes its folder accessible to every user (mode 0777), sockets included, and whoever connects runs code as this
    user. So it is created in a folder that only this user can enter. If TMPDIR is too long for the path of a socket,
    the folder is in /tmp, and only spilled objects, which may need much space, are in TMPDIR.
    """
    base = private_folder()
    folder = tempfile.mkdtemp(dir=base, prefix="")
    if len(os.fsencode(folder + SOCKET)) <= SOCKET_PATH_LIMIT:
        return folder, None
    return tempfile.mkdtemp(dir=private_folder("/tmp"), prefix=""), folder


def close_libraries(folder: Path) -> None:
    """Moves vLLM's sockets and torch's compiled code from guessable names in the shared folder to a private one.

    vLLM's sockets accept pickled objects, and torch loads code that it compiled before. Another user who creates these
    names first could run code as this one. Variables that the user has set stay.
    """
    os.environ.setdefault("VLLM_RPC_BASE_PATH", str(folder))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "torchinductor"))


def close_token() -> None:
    """Creates the token of Ray's servers with mode 0600, or closes an existing one: Ray writes it readable for all.

    Does nothing if the user has set `RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH` or `RAY_AUTH_MODE`.
    """
    if any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")):
        return
    file = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # without a home folder, Ray's own error says what is missing
        file.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream:
                stream.write(secrets.token_hex(32))
        except FileExistsError:
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Context manager in which SIGTERM and Ctrl-C raise Stopped in the main thread; a second one ends the process.

    A second one within SAME_SIGNAL_S is taken for the first. Enter it again after starting Ray, which installs its own
    handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: object) -> None:
        if not _stopped_at:
            _stopped_at.append(time.monotonic())
            name = signal.Signals(number).name
            raise Stopped(f"stopped by {name}; what is finished is kept, start the same command again to continue")
        if time.monotonic() - _stopped_at[0] >= SAME_SIGNAL_S:
            restore()
            signal.raise_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    _entered.append(None)
    try:
        yield
    finally:
        _entered.pop()
        # While a stop is under way, Ray's handler would turn a signal that comes twice into exit status 15.
        if not (_entered and _stopped_at):
            restore()
        if not _entered:
            _stopped_at.clear()


def set_environment(here: bool = False) -> None:
    """Sets environment variables that silence the libraries; those that the user has set stay. Call it before importing
    Ray.

    With `here`, a Ray started on this machine listens on loopback only.
    """
    if here and "RAY_ADDRESS" not in os.environ and "ray" not in sys.modules:
        # By default Ray's servers listen on every interface of the machine. Ray uses loopback as the address of a node
        # only if this variable, meant for Macs, says that there is no cluster.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    for name, value in {
        "RAY_TQDM": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        # Tasks that claim no GPU see none, and so run on the CPU even on a machine with GPUs.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }.items():
        os.environ.setdefault(name, value)
