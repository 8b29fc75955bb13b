"""Live progress: rows of this attempt and of earlier ones, and one warning for each stall."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest

from tapir_ray.errors import Stopped
from tapir_ray.llm.asker import Asker
from tapir_ray.llm.engine.board import EngineBoard, Teller
from tapir_ray.run import progress
from tapir_ray.run.progress import Progress, Stage

WAITS = "MapBatches(Asker) waits: 4 tasks run, 2 blocks wait"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The state of the running pipeline; a test replaces its only entry."""
    found: list[str | None] = [WAITS]
    monkeypatch.setattr(progress, "_waiting", lambda: found[0])
    return found


class Watching(Progress):
    """A progress that checks its stage only on request, at times of the test."""

    def __init__(self, stall_after_s: float = 300.0, batch_s: float = 0.0) -> None:
        self.noted: list[dict[str, Any]] = []
        note = lambda kind, **fields: self.noted.append({"event": kind, **fields})  # noqa: E731
        super().__init__(lambda: {}, stall_after_s, note, batch_s)

    def later(self, seconds: float) -> Stage:
        """Checks the stage after `seconds` without progress."""
        stage = self._stages[-1]
        stage.moved -= seconds
        self.look(stage)
        return stage


def test_a_stall_is_reported_once_with_the_stage_and_the_operator(
    waits: list[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    watching = Watching()
    with watching.stage("round 1 score", "rounds/01/scored", 1000):
        watching.count("rounds/01/scored", 64, 0)
        watching.later(299)
        assert not watching.noted
        watching.later(2)
        watching.later(200)
        assert watching.noted == [{"event": "stalled", "stage": "round 1 score", "seconds": 301, "waits": WAITS}]
        line = f"round 1 score: no row for 301 s (resources.stall_after_s): {WAITS}"
        assert capsys.readouterr().err.count(line) == 1
        # A row ends the stall; then the stage stalls again.
        watching.count("rounds/01/scored", 1, 0)
        assert watching.waits("rounds/01/scored") is None
        watching.later(301)
        assert len(watching.noted) == 2


def test_a_batch_may_wait_a_day_and_another_operator_may_not(waits: list[str | None]) -> None:
    assert Asker.__name__ == progress.ASKER
    watching = Watching(batch_s=26 * 3600.0)
    with watching.stage("generate", "t", 10):
        watching.later(25 * 3600.0)
        assert not watching.noted
        waits[0] = "MapBatches(vLLMEngineStageUDF) waits: 1 tasks run, 2 blocks wait"
        watching.later(1.0)
        assert [note["waits"] for note in watching.noted] == waits
        watching.count("t", 1, 0)
        waits[0] = WAITS
        watching.later(27 * 3600.0)
    assert len(watching.noted) == 2


def test_the_last_state_of_an_ended_pipeline_is_kept(waits: list[str | None]) -> None:
    """Ray has ended it, and its error is still to come."""
    watching = Watching()
    with watching.stage("classify", "seed/instructions", 10):
        watching.later(100)
        waits[0] = None
        watching.later(100)
        assert watching.waits("seed/instructions") == WAITS
    assert watching.waits("another/table") is None


def test_a_block_of_unasked_rows_is_no_progress(waits: list[str | None]) -> None:
    watching = Watching()
    with watching.stage("classify", "t", 10):
        watching.later(200)
        watching.count("t", 0, 0)
        watching.later(101)
    assert len(watching.noted) == 1


def test_a_stage_with_all_its_rows_does_not_stall(waits: list[str | None]) -> None:
    """Merging the files of a large table takes a while."""
    watching = Watching()
    with watching.stage("classify", "t", 10):
        watching.count("t", 10, 0)
        watching.later(1000)
    assert not watching.noted


def test_a_stage_without_a_table_stalls_if_it_reports_nothing(waits: list[str | None]) -> None:
    """True also before its first report: its tasks or workers may have no place."""
    watching = Watching()
    with watching.stage("find near-duplicates"):
        watching.later(200)
        assert not watching.noted
        watching.later(101)
    assert watching.noted == [{"event": "stalled", "stage": "find near-duplicates", "seconds": 301, "waits": WAITS}]


def test_a_training_without_new_facts_stalls(waits: list[str | None]) -> None:
    waits[:] = [None]
    watching = Watching()
    with watching.stage("initial SFT") as facts:
        facts["step"] = "3/9"
        watching.later(400)
        assert not watching.noted, "the step is new"
        watching.later(400)
        assert watching.noted == [{"event": "stalled", "stage": "initial SFT", "seconds": 400, "waits": None}]


def test_rows_per_second_are_those_of_this_attempt() -> None:
    watching = Watching()
    with watching.stage("classify", "t", 1000):
        watching.keep("t", 500)
        watching.keep("t", 400)
        watching.count("t", 50, 2)
        stage = watching._stages[0]
        stage.started -= 10
        assert watching.rows("t") == 950
        assert stage.rows_per_second == pytest.approx(5, rel=0.1)
        (told,) = watching.told()
    assert (told["rows"], told["expected"], told["failed"]) == (950, 1000, 2)
    assert told["rows_per_second"] == pytest.approx(5, rel=0.1)


def test_running_stages_and_those_that_failed_are_in_progress() -> None:
    watching = Watching()
    with watching.span("classify", 0), watching.stage("classify", "seed/instructions", 10):
        pass
    assert watching.told() == []
    with pytest.raises(Stopped), watching.span("score", 2), watching.stage("round 2 score", "t", 10) as facts:
        watching.count("t", 4, 1)
        facts["loss"] = object()
        raise Stopped("the budget is used up")
    (told,) = json.loads(json.dumps(watching.told()))
    assert (told["label"], told["stage"], told["round"], told["rows"]) == ("round 2 score", "score", 2, 4)
    (stage,) = (stage for stage in watching._stages if not stage.completed)
    assert stage.seconds == stage.seconds, "its clock has stopped"


def test_trackers_get_the_rows_of_all_stages() -> None:
    watching = Watching()
    with watching.stage("find near-duplicates"), watching.stage("read", "seed/read"):
        watching.count("seed/read", 7, 0)
    with watching.stage("classify", "t", 10):
        watching.count("t", 4, 1)
        read, classify = watching.numbers()
    assert read == {"stage": "read", "rows": 7, "expected": None, "failed": 0, "seconds_without_row": None}
    assert 0 <= classify.pop("seconds_without_row") < 5
    assert classify == {"stage": "classify", "rows": 4, "expected": 10, "failed": 1}
    assert watching.numbers()[1]["seconds_without_row"] is None, "an ended stage waits for no row"


def test_a_starting_engine_is_shown_and_then_its_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the line would be `0 rows, 0.0 rows/s` for minutes."""
    shown, board = Progress(lambda: {}), EngineBoard()
    told = SimpleNamespace(put=SimpleNamespace(remote=lambda *facts: board.put(*copy.deepcopy(facts))))
    teller = Teller(told, "worker")
    shown.follow("t", board.facts)
    with shown.stage("round 1 score", "t", 240):
        stage = shown._stages[-1]

        def line() -> str:
            shown._ask(stage)
            return shown._line(stage, {})

        assert "0/240 rows  failed 0  engine waits for resources" in line()
        teller.starting()
        assert "0/240 rows  failed 0  engine starts" in line()
        teller.ready()
        teller.asked()
        teller.asked()
        teller.answered(tokens=40)
        assert line().split("failed 0  ")[1].startswith("answers 0  answer tokens 0")
        teller.answered(tokens=None)
        assert "answers 1  answer tokens 40" in line() and "in hand" not in line()
        shown.count("t", 64, 0)
        assert "64/240 rows" in line() and "rows/s" in line()
    assert "answers 1  answer tokens 40  done" in capsys.readouterr().err


def test_an_error_in_reading_facts_changes_nothing() -> None:
    shown = Progress(lambda: {})
    shown.follow("t", lambda: {}[0])
    with shown.stage("round 1 score", "t", 240) as facts:
        facts["loss"] = 1
        shown._ask(shown._stages[-1])
        assert facts == {"loss": 1}
