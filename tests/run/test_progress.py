"""Live progress: rows of this attempt and of earlier ones, and a word, once, where nothing moves."""

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
    """What the running pipeline waits for; the first entry holds."""
    found: list[str | None] = [WAITS]
    monkeypatch.setattr(progress, "_waiting", lambda: found[0])
    return found


class Watching(Progress):
    """A progress that looks at its one stage when it is told to, at a time of the test's own."""

    def __init__(self, stall_after_s: float = 300.0, batch_s: float = 0.0) -> None:
        self.noted: list[dict[str, Any]] = []
        note = lambda kind, **fields: self.noted.append({"event": kind, **fields})  # noqa: E731
        super().__init__(lambda: {}, stall_after_s, note, batch_s)

    def later(self, seconds: float) -> Stage:
        """Look at the stage after so many seconds in which nothing moved."""
        stage = self._stages[-1]
        stage.moved -= seconds
        self.look(stage)
        return stage


def test_a_stall_is_said_once_with_the_stage_and_the_operator(
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
        # a row, and it stalls anew
        watching.count("rounds/01/scored", 1, 0)
        assert watching.waits("rounds/01/scored") is None
        watching.later(301)
        assert len(watching.noted) == 2


def test_a_batch_may_take_a_day_and_another_operator_may_not(waits: list[str | None]) -> None:
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


def test_what_a_pipeline_that_is_gone_waited_for_is_kept(waits: list[str | None]) -> None:
    """Ray has given it up, and its error is on the way."""
    watching = Watching()
    with watching.stage("classify", "seed/instructions", 10):
        watching.later(100)
        waits[0] = None
        watching.later(100)
        assert watching.waits("seed/instructions") == WAITS
    assert watching.waits("another/table") is None


def test_a_block_of_unasked_rows_is_no_row(waits: list[str | None]) -> None:
    watching = Watching()
    with watching.stage("classify", "t", 10):
        watching.later(200)
        watching.count("t", 0, 0)
        watching.later(101)
    assert len(watching.noted) == 1


def test_what_has_all_its_rows_does_not_stall(waits: list[str | None]) -> None:
    """Putting a large table's files together takes its time."""
    watching = Watching()
    with watching.stage("classify", "t", 10):
        watching.count("t", 10, 0)
        watching.later(1000)
    assert not watching.noted


def test_a_stage_without_a_table_stalls_where_it_says_nothing(waits: list[str | None]) -> None:
    """Also before it has said anything: its tasks or workers may have no place."""
    watching = Watching()
    with watching.stage("find near-duplicates"):
        watching.later(200)
        assert not watching.noted
        watching.later(101)
    assert watching.noted == [{"event": "stalled", "stage": "find near-duplicates", "seconds": 301, "waits": WAITS}]


def test_a_training_that_says_nothing_new_stalls(waits: list[str | None]) -> None:
    waits[:] = [None]
    watching = Watching()
    with watching.stage("initial SFT") as facts:
        facts["step"] = "3/9"
        watching.later(400)
        assert not watching.noted, "the step is new"
        watching.later(400)
        assert watching.noted == [{"event": "stalled", "stage": "initial SFT", "seconds": 400, "waits": None}]


def test_rows_a_second_are_those_of_this_attempt() -> None:
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


def test_under_way_are_the_stages_that_run_or_that_an_error_ended() -> None:
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


def test_rows_of_all_stages_are_numbers_for_trackers() -> None:
    watching = Watching()
    with watching.stage("find near-duplicates"), watching.stage("read", "seed/read"):
        watching.count("seed/read", 7, 0)
    with watching.stage("classify", "t", 10):
        watching.count("t", 4, 1)
        read, classify = watching.numbers()
    assert read == {"stage": "read", "rows": 7, "expected": None, "failed": 0, "seconds_without_row": None}
    assert 0 <= classify.pop("seconds_without_row") < 5
    assert classify == {"stage": "classify", "rows": 4, "expected": 10, "failed": 1}
    assert watching.numbers()[1]["seconds_without_row"] is None, "a stage that has ended is not still"


def test_a_table_whose_engine_starts_says_so_and_then_what_it_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Not `0 rows, 0.0 rows/s` for minutes."""
    shown, board = Progress(lambda: {}), EngineBoard()
    told = SimpleNamespace(put=SimpleNamespace(remote=lambda *said: board.put(*copy.deepcopy(said))))
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


def test_facts_that_cannot_be_had_change_nothing() -> None:
    shown = Progress(lambda: {})
    shown.follow("t", lambda: {}[0])
    with shown.stage("round 1 score", "t", 240) as facts:
        facts["loss"] = 1
        shown._ask(shown._stages[-1])
        assert facts == {"loss": 1}
