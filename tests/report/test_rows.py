"""`tapir rows`: rows of a table by its name, in order, with errors that list what there is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tapir_ray import cli
from tapir_ray.data.schemas import SCORED, conform
from tapir_ray.report.rows import Choice, print_rows, rows
from tapir_ray.run.run import Run
from tests.report.html.folders import finished_run, scored


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return finished_run(tmp_path_factory.mktemp("runs"))


def found(uri: str, *options: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert cli.main(["rows", uri, *options, "--json"]) == 0
    made: dict[str, object] = json.loads(capsys.readouterr().out)
    return made


def refused(uri: str, *options: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(["rows", uri, *options]) == 2
    return capsys.readouterr().err


def test_rows_are_sorted_over_all_files_and_selected(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = found(uri, "--round", "1", "--sort", "-difficulty", "--where", "split=seed", "status=ok", "--limit", "3",
                 "--columns", "instruction_id", "difficulty", capsys=capsys)  # fmt: skip
    assert made["table"] == "rounds/01/scored" and made["total"] == 49 and made["matching"] == 24
    assert [row["difficulty"] for row in made["rows"]] == [6.0, 6.0, 6.0]  # type: ignore[attr-defined]


def test_rows_without_a_value_come_last(tmp_path: Path) -> None:
    run = Run.at(finished_run(tmp_path))
    table = conform([*scored(0, 1.0), {"instruction_id": "none"}], SCORED)
    run.write_rows("rounds/01/scored", table)
    from tapir_ray.methods import layout_of

    for sort, place in (("-difficulty", -1), ("difficulty", -1)):
        made = rows(run, layout_of(run.stored_config()), Choice(round_number=1, sort=sort, limit=100))
        assert made.rows["instruction_id"].to_pylist()[place] == "none"


def test_without_a_round_it_is_the_last_finished_one(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(uri, capsys=capsys)["table"] == "rounds/02/scored"
    assert found(uri, "--table", "instructions", capsys=capsys)["table"] == "seed/instructions"
    assert found(uri, "--table", "control/sft/01/holdout", capsys=capsys)["total"] == 24
    assert found(uri, "--table", "generated", "--where", "reason=duplicate", capsys=capsys)["matching"] == 1
    assert found(uri, "--table", "generated", "--where", "reason=null", capsys=capsys)["matching"] == 17


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--table", "nonsense"), ("no such table", "generated", "rounds/01/scored")),
        (("--table", "expanded"), ("not finished yet", "rounds/02/generated")),
        (("--round", "9"), ("rounds 1 to 2",)),
        (("--table", "instructions", "--round", "1"), ("leave --round out",)),
        (("--sort", "-nonsense"), ("no column nonsense", "difficulty")),
        (("--sort", "messages"), ("is a list",)),
        (("--where", "nonsense"), ("COLUMN=VALUE",)),
        (("--where", "difficulty=high"), ("is of type double",)),
        (("--columns", "nonsense"), ("no column nonsense",)),
    ],
)
def test_errors_list_what_there_is(
    uri: str, options: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(uri, *options, capsys=capsys)
    assert all(word in said for word in words), said


def test_a_pipe_gets_a_block_for_each_row(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["rows", uri, "--limit", "1", "--sort", "-difficulty"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("rounds/02/scored: 49 rows, 1 shown\n\n1\n  instruction_id")
    assert "\n  messages  " in shown and "question" in shown and "other columns (--columns): masked_turns" in shown


def test_control_characters_of_a_row_do_not_reach_the_terminal(tmp_path: Path) -> None:
    run = Run.at(finished_run(tmp_path))
    row = {**scored(0, 1.0)[0], "student_response": "\x1b[31mred\x07"}
    run.write_rows("rounds/01/scored", conform([row], SCORED))
    from tapir_ray.methods import layout_of

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for out in (io.StringIO(), Terminal()):
        print_rows(rows(run, layout_of(run.stored_config()), Choice(round_number=1)), out)
        assert "red" in out.getvalue() and "\x1b[31m" not in out.getvalue() and "\x07" not in out.getvalue()
