"""Storage that fails while leases are written: requests wait for it, none is lost, and nothing is counted twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray

from tapir_ray.config import Budget, Endpoint, Limits, Price
from tapir_ray.data.schemas import BUDGET_USED_UP
from tapir_ray.errors import StageError
from tapir_ray.llm.budget import files, saving
from tapir_ray.llm.budget.files import UsageFiles
from tapir_ray.llm.budget.ledger import Ledger
from tapir_ray.llm.budget.usage import Account, Lease, Meter
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.roles import Roles
from tapir_ray.run.row_counter import RowCounter
from tapir_ray.run.tables import Tables
from tests.llm.endpoint import Choice, running

ROWS = 12


class FailingFiles(UsageFiles):
    """Storage whose first write works, and the next `failures` fail."""

    def __init__(self, folder: str, failures: float, attempt: int = 1) -> None:
        super().__init__(folder, attempt)
        self.failures, self.saves = failures, 0

    def save(self, state: dict[str, Any]) -> None:
        self.saves += 1
        if 1 < self.saves <= 1 + self.failures:
            raise OSError("503 Slow Down")
        super().save(state)


class Local:
    """A ledger with the interface of its actor."""

    def __init__(self, ledger: Ledger) -> None:
        for name in ("lease", "record", "problem", "drained"):
            setattr(self, name, SimpleNamespace(remote=self._called(getattr(ledger, name))))

    @staticmethod
    def _called(method: Any) -> Any:
        async def call(*arguments: Any) -> Any:
            return method(*arguments)

        return call


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "AGAIN_S", 0.01)
    monkeypatch.setattr(saving, "PATIENCE_S", 0.5)
    monkeypatch.setattr(files, "AGAIN_S", 0.01)


def ledger(files: UsageFiles, max_tokens: int = 100_000) -> Ledger:
    account = Account("teacher", Limits(), Price())
    return Ledger({"teacher": account}, Budget(max_tokens=max_tokens), files)


def asked(one: Ledger) -> tuple[list[str | None], int]:
    """Returns the text or the reason of each row, and the number of requests sent."""

    async def main(url: str) -> list[str | None]:
        meter = Meter(Local(one), leased={"teacher"})
        client = OpenAIClient(Target("teacher", Endpoint(model="m"), url), meter)
        first = await client.chat([{"role": "user", "content": "before"}], kind="x")
        replies = await asyncio.gather(
            *(client.chat([{"role": "user", "content": f"q{n}"}], kind="x") for n in range(ROWS))
        )
        await meter.flush()
        await client.close()
        return [reply.text or reply.reason for reply in (first, *replies)]

    with running(lambda body, n: "x") as seen:
        return asyncio.run(main(seen.url)), len(seen.requests)


@pytest.mark.parametrize("failures", [1, 3])
def test_a_storage_error_in_a_lease_loses_no_row_and_no_budget(failures: int, tmp_path: Path) -> None:
    one = ledger(FailingFiles(str(tmp_path), failures))
    texts, requests = asked(one)
    assert texts == ["x"] * (ROWS + 1) and requests == ROWS + 1
    used = one.snapshot()["teacher"]
    assert (used["requests"], used["unsettled_tokens"]) == (ROWS + 1, 0)
    one.save()
    later = ledger(UsageFiles(str(tmp_path), 2)).snapshot()["teacher"]
    assert (later["requests"], later["unsettled_tokens"]) == (ROWS + 1, 0)


def test_a_lasting_storage_failure_ends_the_run_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = FailingFiles(str(tmp_path), float("inf"))
    one = ledger(files)
    texts, requests = asked(one)
    assert texts == ["x"] + [BUDGET_USED_UP] * ROWS and requests == 1, "rows that were not asked are not written"
    roles = object.__new__(Roles)
    roles._actor = Local(one)
    monkeypatch.setattr(ray, "get", lambda call: asyncio.run(call))
    run = cast(Tables, SimpleNamespace(progress=None, event=lambda kind, **fields: None))
    counting = RowCounter(run, "t", None, 1.0, roles.drained)
    with pytest.raises(
        StageError, match=r"could not be written.*503 Slow Down.*start the same command again"
    ) as stopped:
        list(counting.counted(iter([{"rows": 0, "failed": 0, "unasked": ROWS, "error": None}])))
    assert stopped.value.exit_status == 1
    # Storage works again at the end: unsent requests do not count towards the budget of the next start.
    files.failures = 0
    one.save()
    later = ledger(UsageFiles(str(tmp_path), 2)).snapshot()["teacher"]
    assert (later["requests"], later["unsettled_tokens"]) == (1, 0)


def test_a_run_without_a_budget_survives_failing_storage_of_its_usage(tmp_path: Path) -> None:
    account = Account("teacher", Limits(requests_per_minute=6000), Price())
    one = Ledger({"teacher": account}, Budget(), FailingFiles(str(tmp_path), float("inf")))
    for number in range(3):
        assert one.lease("teacher", [Lease(str(number), 1, 1)]) == (1, 0.0)
        one._kept()
    assert one.problem() is None


def test_usage_of_earlier_attempts_is_read_again_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ledger(UsageFiles(str(tmp_path), 1))
    asked(first)
    first.save()
    files = UsageFiles(str(tmp_path), 2)
    read, calls = files._storage.read_json, iter([True, True])

    def failing(name: str) -> Any:
        if next(calls, False):
            raise OSError("503 Slow Down")
        return read(name)

    monkeypatch.setattr(files._storage, "read_json", failing)
    assert ledger(files).snapshot()["teacher"]["requests"] == ROWS + 1


def test_a_request_of_unknown_usage_counts_at_worst_case_also_without_a_budget() -> None:
    account = Account("teacher", Limits(), Price(output=2.0))
    one = Ledger({"teacher": account}, Budget())

    async def main(url: str) -> None:
        meter = Meter(Local(one))
        client = OpenAIClient(Target("teacher", Endpoint(model="m", max_attempts=1), url), meter)
        await client.chat([{"role": "user", "content": "q"}], kind="x")
        await meter.flush()
        await client.close()

    with running(lambda body, n: Choice("x", usage={"prompt_tokens": "?", "completion_tokens": [4]})) as seen:
        asyncio.run(main(seen.url))
    used = one.snapshot()["teacher"]
    assert used["requests"] == 1 and used["unsettled_tokens"] > 1024 and used["unsettled_cost"] >= 1024 * 2e-6
