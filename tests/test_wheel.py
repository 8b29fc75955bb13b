"""A wheel works outside the checkout: configs, prompts and templates are in it, and the demo's first stage runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.runs import ROOT

pytestmark = pytest.mark.slow
PACKED = (
    "tapir_ray/config/experiments/demo.yaml",
    "tapir_ray/curriculum/tasks.yaml",
    "tapir_ray/llm/prompts/label.jinja",
    "tapir_ray/train/templates/chatml.jinja",
    "tapir_ray/py.typed",
)


def run(*command: str, cwd: Path) -> str:
    """Returns the output of a command that must succeed, without variables of the checkout."""
    left_out = ("RAY_", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_the_demo_begins_from_an_installed_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "tapir_ray", source / "tapir_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    run(sys.executable, "-m", "pip", *build, cwd=tmp_path)
    (wheel,) = tmp_path.glob("tapir_ray-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(PACKED) <= names, set(PACKED) - names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "configs/"))]

    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env"), cwd=tmp_path)
    python = tmp_path / "env/bin/python"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel), cwd=tmp_path)
    # The packages of this environment, behind those of the new one. `addsitedir` would read the link to the checkout.
    (site / "present.pth").write_text(sysconfig.get_path("purelib") + "\n")

    where = run(str(python), "-c", "import tapir_ray; print(tapir_ray.__file__)", cwd=tmp_path)
    assert str(site) in where, "the checkout was imported"
    tapir = str(tmp_path / "env/bin/tapir")
    assert "demo" in run(tapir, "init", "--list", cwd=tmp_path)
    run(tapir, "init", "demo.yaml", "--from", "demo", cwd=tmp_path)
    assert "tokens" in run(tapir, "check", "demo.yaml", cwd=tmp_path)
    few = ("--set", "simulator.seed_rows=100", "holdout.rows=10")
    run(tapir, "run", "demo.yaml", "--until", "ingest", *few, cwd=tmp_path)
    assert (tmp_path / "runs/demo/seed/ingested/_manifest.json").is_file()
