"""The model that the trainings start from."""

from __future__ import annotations

import pytest

from tapir_ray.config import CreateModel
from tapir_ray.train.create_student import create_student

SIZE = CreateModel(hidden_size=32, intermediate_size=64, layers=2, heads=2, vocab_size=512, max_length=64)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an untrained student that knows a few words."""
    folder = str(tmp_path_factory.mktemp("model") / "student")
    create_student(SIZE, ["Say one two three.", "one two three"] * 20, folder, None, 0)
    return folder
