"""Which nodes a worker that asks a served model is placed on."""

from __future__ import annotations

import pytest

from tapir_ray.errors import StageError
from tapir_ray.llm import proxies


def test_a_worker_goes_to_a_node_where_serve_listens_as_soon_as_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([[], [], ["aa", "bb"]])
    monkeypatch.setattr(proxies, "listening", lambda: next(answers))
    assert proxies.beside(["teacher"]) == {"label_selector": {"ray.io/node-id": "in(aa,bb)"}}
    assert proxies.beside([]) == {}


def test_that_serve_listens_nowhere_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(proxies, "listening", list)
    with pytest.raises(StageError, match=r"listened on no node with CPUs for 0\.1 s, so the judge and teacher cannot"):
        proxies.beside(["teacher", "judge"])
