"""Noise of libraries goes to a file, errors reach the terminal, and a failed run keeps the files."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import ray
from ray._private import worker
from ray._private.log import PlainRayHandler

from tapir_ray.cluster import logs
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError, StageError, Stopped

# Ray's logger has its handler from the import on.
assert ray.__version__


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines that reach the terminal by Ray's handler."""
    lines: list[str] = []
    (handler,) = (one for one in logging.getLogger("ray").handlers if isinstance(one, PlainRayHandler))
    monkeypatch.setattr(handler, "emit", lambda record: lines.append(record.getMessage()))
    return lines


def test_warnings_of_ray_go_to_the_file_and_errors_to_the_terminal(tmp_path: Path, terminal: list[str]) -> None:
    with logs.quiet(tmp_path / "driver.log"):
        logging.getLogger("ray._private.authentication").warning("token authentication is enabled")
        logging.getLogger("ray._private.services").error("failed to start the dashboard")
        logging.getLogger("ray._private.worker").error("the raylet has died")
    assert terminal == ["the raylet has died"]
    written = (tmp_path / "driver.log").read_text()
    assert "token authentication" in written and "dashboard" in written
    logging.getLogger("ray._private.services").error("afterwards")
    assert terminal == ["the raylet has died", "afterwards"], "a program's loggers are as before"


def test_a_library_that_is_imported_later_is_quiet_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSpeed gives its logger a handler to standard output when it is imported."""
    with logs.quiet(tmp_path / "driver.log"):
        logger, handler = logging.getLogger("DeepSpeed"), logging.StreamHandler(sys.stdout)
        logger.addHandler(handler)
        try:
            logger.warning("Setting ds_accelerator to cpu")
            logger.error("out of memory")
        finally:
            logger.removeHandler(handler)
    shown = capsys.readouterr().out
    assert "ds_accelerator" not in shown and "out of memory" in shown
    assert "ds_accelerator" in (tmp_path / "driver.log").read_text()


def test_ray_llm_is_quiet_too(tmp_path: Path, terminal: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Its loggers are set up when they are first asked for, in the middle of a run."""
    from ray.llm._internal.common.observability.logging import get_logger

    with logs.quiet(tmp_path / "driver.log"):
        logger = get_logger("tests_of_tapir")
        logger.info("No cloud storage mirror configured")
        logger.warning("a hint")
        logger.error("the model cannot be loaded")
    assert terminal == ["the model cannot be loaded"] and capsys.readouterr().err == ""
    assert "a hint" in (tmp_path / "driver.log").read_text()


def test_python_warnings_of_other_packages_go_to_the_file(tmp_path: Path) -> None:
    before = warnings.showwarning
    with warnings.catch_warnings(), logs.quiet(tmp_path / "driver.log"):
        warnings.simplefilter("always")
        warnings.showwarning("use the new one", FutureWarning, "/site-packages/torch/nn.py", 3)
    assert "use the new one" in (tmp_path / "driver.log").read_text() and warnings.showwarning is before


def test_messages_of_a_raylet_are_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a new Ray that has another switch."""
    message = {"lines": ["WARNING: 8 PYTHON worker processes have been started"], "pid": "raylet", "is_err": False}
    with logs.quiet(tmp_path / "driver.log"):
        worker.print_to_stdstream(message, ignore_prefix=False)
    assert capsys.readouterr().out == ""
    worker.print_to_stdstream({**message, "lines": ["another one"]}, ignore_prefix=False)
    assert "another one" in capsys.readouterr().out


NATIVE = """
import ctypes, pathlib, sys
from tapir_ray.cluster.logs import native_errors_to
libc = ctypes.CDLL(None)
def write(text):
    libc.fputs(text, ctypes.c_void_p.in_dll(libc, "stderr")); libc.fflush(None)
with native_errors_to(pathlib.Path(sys.argv[1])):
    write(b"of a library\\n")
    print("of python", file=sys.stderr)
write(b"afterwards\\n")
"""


def test_native_loggers_write_to_the_file_and_python_to_the_terminal(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", NATIVE, str(tmp_path / "core.log")], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stderr == "of python\nafterwards\n"
    assert (tmp_path / "core.log").read_text() == "of a library\n"


def fail(storage: Storage, folder: Path, error: Exception) -> Exception:
    with pytest.raises(type(error)) as raised, logs.kept_after_error(storage, 2, [folder]):
        raise error
    return raised.value


def test_an_error_names_the_folder_with_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "a-key-of-a-provider")
    folder, storage = tmp_path / "ray", Storage.at(str(tmp_path / "run"))
    (folder / "train").mkdir(parents=True)
    (folder / "raylet.out").write_text("x" * logs.MOST_BYTES + "the end, with a-key-of-a-provider")
    (folder / "train" / "controller.log").write_text("worker 1 has died")
    (folder / "gcs_server.err").touch()
    error = fail(storage, folder, StageError("training failed"))
    assert error.__notes__ == [f"logs of Ray, vLLM and the workers: {tmp_path}/run/logs/00002"]
    kept = {file.name: file.read_text() for file in (tmp_path / "run/logs/00002").iterdir()}
    assert kept.keys() == {"raylet.out", "controller.log"}, "empty files say nothing"
    assert len(kept["raylet.out"]) <= logs.MOST_BYTES and kept["raylet.out"].endswith("the end, with ***")


@pytest.mark.parametrize("error", [Stopped("by a signal"), InputError("a key")])
def test_a_stop_keeps_no_logs(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "raylet.out").write_text("something")
    assert not hasattr(fail(Storage.at(str(tmp_path / "run")), tmp_path, error), "__notes__")
    assert not (tmp_path / "run").exists()
