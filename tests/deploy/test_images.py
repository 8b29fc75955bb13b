"""Dockerfiles: their versions are the project's, and they copy only files that are committed and sent to the build."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tapir_ray.cluster.session import set_environment
from tapir_ray.train.trainer import START_TRIES
from tests.deploy.files import CLUSTER, PROJECT, ROOT, pin

IMAGES = {"Dockerfile": "gpu", "Dockerfile.cpu": "cpu"}
MAKEFILE = (ROOT / "Makefile").read_text()


def instructions(name: str) -> list[tuple[str, str]]:
    """Returns instruction and arguments of each step, with its lines joined."""
    text = re.sub(r"^#.*\n", "", (CLUSTER / name).read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split(None, 1)[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def arguments(name: str, instruction: str) -> list[str]:
    return [given for found, given in instructions(name) if found == instruction]


def environment(name: str) -> dict[str, str]:
    """Returns the variables that an image sets."""
    return dict(pair.split("=", 1) for line in arguments(name, "ENV") for pair in line.split())


def copied(name: str) -> list[str]:
    """Returns the paths of the repository that an image copies."""
    words = [[word for word in line.split() if not word.startswith("--")] for line in arguments(name, "COPY")]
    return [source for line in words for source in line[:-1]]


@pytest.mark.parametrize("name", IMAGES)
def test_ray_and_python_are_of_the_projects_versions(name: str) -> None:
    (base,) = arguments(name, "FROM")
    image = re.fullmatch(r"rayproject/ray:(?P<ray>[\d.]+)-py(?P<major>\d)(?P<minor>\d+)(-cpu)?", base)
    assert image is not None
    assert image["ray"] == pin("ray")
    python = f"{image['major']}.{image['minor']}"
    assert f"command -v python{python} " in MAKEFILE
    assert PROJECT["requires-python"].startswith(f">={python}")


@pytest.mark.parametrize(("name", "extra"), IMAGES.items())
def test_all_other_packages_are_installed_by_the_projects_pins(name: str, extra: str) -> None:
    """A version written in two places is updated in only one."""
    steps = " ".join(arguments(name, "RUN"))
    assert f'pip install --no-cache-dir ".[{extra}]"' in steps
    for package in ("ray", "vllm", "deepspeed", "transformers"):
        assert not re.search(rf"\b{package}[\w\[\],-]*==", steps)
    named = [line.removeprefix("TORCH=") for line in arguments(name, "ARG")]
    assert named == ([pin("torch")] if extra == "cpu" else [])
    assert f"TORCH := {pin('torch')}\n" in MAKEFILE


@pytest.mark.parametrize("name", IMAGES)
def test_copied_files_are_committed_and_sent_to_the_build(name: str) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    files = tracked.stdout.splitlines()
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert copied(name)
    for source in copied(name):
        assert any(file == source or file.startswith(f"{source}/") for file in files), source
        assert source in sent
    assert set(sent) == {source for other in IMAGES for source in copied(other)}


@pytest.mark.parametrize("name", IMAGES)
def test_the_package_can_be_built_from_the_copied_files(name: str) -> None:
    assert {"pyproject.toml", PROJECT["readme"], "tapir_ray"} <= set(copied(name))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_sets_the_environment_of_the_driver(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a worker on another machine that claims no GPU would see all of them."""
    drivers: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", drivers)
    set_environment()
    image = environment(name)
    assert {key: image.get(key) for key in drivers} == drivers


@pytest.mark.parametrize("name", IMAGES)
def test_training_waits_for_nodes_as_long_as_the_stages_before_it(name: str) -> None:
    (waits,) = re.findall(r"no_progress_timeout_s: (\d+)", (CLUSTER / "kuberay/rayjob.yaml").read_text())
    assert int(environment(name)["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) * START_TRIES >= int(waits)


def test_every_file_and_every_value_to_fill_in_is_explained() -> None:
    readme = (CLUSTER / "README.md").read_text()
    pages = "".join((CLUSTER.parent / "docs" / f"{name}.md").read_text() for name in ("cluster", "aws", "gcp"))
    files = [path for path in CLUSTER.rglob("*") if path.is_file() and path.name != "README.md"]
    asked = {token for path in files for token in re.findall(r"FILL_IN_[A-Z]+", path.read_text())}
    assert len(files) == 10 and len(asked) > 5
    assert [path.name for path in files if f"`{path.relative_to(CLUSTER)}`" not in readme] == []
    assert sorted(token for token in asked if token not in pages) == []
