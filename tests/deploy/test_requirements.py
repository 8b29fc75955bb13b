"""Pinned packages of `make setup`: they fit pyproject.toml, and name no index and no folder."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

from tests.deploy.files import PROJECT, ROOT

EXTRAS = ("cpu", "gpu")


def pins(extra: str) -> dict[str, str]:
    lines = (ROOT / f"requirements/{extra}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_package_of_the_project_is_pinned_to_a_version_it_allows(extra: str) -> None:
    found = pins(extra)
    named = [
        *PROJECT["dependencies"],
        *(text for key in (extra, "dev") for text in PROJECT["optional-dependencies"][key]),
    ]
    for requirement in map(Requirement, named):
        version = found[re.sub(r"[-_.]+", "-", requirement.name).lower()]
        assert requirement.specifier.contains(version, prereleases=True), requirement


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_pin_names_a_package_and_a_version_only(extra: str) -> None:
    """The address of an index or a folder of wheels is valid on one machine only."""
    lines = (ROOT / f"requirements/{extra}.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|[a-z0-9-]+==[\w.+]+", line)] == []
    assert [line for line in lines if "://" in line] == []


def test_a_cpu_machine_gets_the_cpu_build_and_no_package_that_fails_to_import_with_it() -> None:
    found = pins("cpu")
    assert found["torch"].endswith("+cpu")
    assert found.keys().isdisjoint({"torchvision", "torchaudio", "torchcodec"})
