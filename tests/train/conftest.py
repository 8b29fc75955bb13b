"""The model that trainings start from, and the workers of trainings without Ray."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tapir_ray.config import CreateModel
from tapir_ray.train.create_student import create_student
from tests.train.pool import Pool

SIZE = CreateModel(hidden_size=32, intermediate_size=64, layers=2, heads=2, vocab_size=512, max_length=64)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an untrained student that knows a few words."""
    folder = str(tmp_path_factory.mktemp("model") / "student")
    create_student(SIZE, ["Say one two three.", "one two three"] * 20, folder, None, 0)
    return folder


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """One worker process."""
    with Pool(1, tmp_path_factory.mktemp("alone")) as pool:
        yield pool


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Two worker processes."""
    with Pool(2, tmp_path_factory.mktemp("pair")) as pool:
        yield pool
