"""The report of a run: complete, small, self-contained, and safe against the texts of rows."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from tapir_ray import cli
from tapir_ray.data.schemas import SCORED, conform
from tapir_ray.methods.forecast import REPORTED
from tapir_ray.report.html import report as report_module
from tapir_ray.report.html.page import MOST_BYTES, in_script
from tapir_ray.report.html.report import BROKEN, report, save
from tapir_ray.report.html.section import Section
from tapir_ray.report.html.sections.answers import repetition
from tapir_ray.report.html.sections.judge import agreeing
from tests.report.html.folders import SCRIPT, asked, finished_run, regeneration, scored, started_run


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def figures(self) -> int:
        return sum("data-figure" in attributes for _, attributes in self.tags)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(finished_run(tmp_path_factory.mktemp("runs")), REPORTED)


def section_of(text: str, key: str) -> str:
    found = re.search(rf'<section id="{key}".*?</section>', text, re.DOTALL)
    assert found is not None, key
    return found[0]


def test_every_section_of_a_finished_run_has_its_data(made: str) -> None:
    assert BROKEN not in made
    keys = re.findall(r'<section id="([\w-]+)"', made)
    assert keys == ["overview", "pays", "curriculum", "tasks", "filters", "loss", "answers", "judge", "cost",
                    "contamination", "rows"]  # fmt: skip
    assert 'class="missing"' not in made
    assert Page(made).figures == 14
    assert "the curriculum paid" in section_of(made, "pays") and "level" in section_of(made, "pays")
    assert "contamination_holdout" in section_of(made, "filters")
    assert "judge_refused" in section_of(made, "filters")
    assert "forecast tokens" in section_of(made, "cost")


def test_the_page_loads_nothing_and_is_small(made: str) -> None:
    assert len(made.encode()) < 2_500_000
    page = Page(made)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "the page's script would find another element"
    assert [
        attributes for tag, attributes in page.tags if tag in ("link", "img", "iframe") or "src" in attributes
    ] == []
    policy = next(attributes["content"] or "" for tag, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy and "connect-src" not in policy and "script-src 'sha256-" in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]


def test_texts_of_rows_are_escaped_wherever_they_stand(made: str) -> None:
    assert SCRIPT not in made
    assert "<script>document.title" not in made and "onerror=&#34;" in made
    page = Page(made)
    assert sum(tag == "script" for tag, _ in page.tags) == 3
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    # It is shown all the same: as a question, as an answer, as a reason and as a shared text.
    assert sum(SCRIPT in text for text in page.texts) >= 4


def test_json_in_a_script_cannot_end_it() -> None:
    assert in_script({"a": "</script><!--&"}) == '{"a":"\\u003c/script\\u003e\\u003c!--\\u0026"}'


def test_rows_to_read_have_both_answers_and_are_sorted(made: str) -> None:
    rows = section_of(made, "rows")
    groups = re.findall(r'data-group="([^"]+)"', rows)
    assert {"hardest", "most improved", "filtered: duplicate"} <= set(groups)
    found = re.findall(r'data-group="hardest" data-task="\w*" data-order="([\d.]+)"', rows)
    hardest = [float(order) for order in found]
    assert hardest == sorted(hardest, reverse=True) and len(hardest) == 30
    assert "student before · 3" in rows and "student after · 5" in rows and "teacher · 9" in rows


def test_a_run_under_way_and_one_without_rounds_say_what_is_missing(tmp_path: Path) -> None:
    context = started_run(tmp_path / "a")
    text = report(context.run.uri, REPORTED)
    assert BROKEN not in text
    for key, why in (("pays", "No student has been scored"), ("curriculum", "No round is planned yet"),
                     ("judge", "The judge has scored nothing yet")):  # fmt: skip
        assert why in section_of(text, key)
    context.run.write_rows(context.loop.round(1).scored, conform(scored(0, 1.0), SCORED))
    text = report(context.run.uri, REPORTED)
    assert BROKEN not in text
    assert "hardest" in section_of(text, "rows") and "Score by round" in section_of(text, "pays")


def test_the_losses_of_a_training_under_way_are_shown(tmp_path: Path) -> None:
    run = started_run(tmp_path / "a").run
    begun = {"kind": "train", "round": 1, "training": "round-01-before"}
    steps = [{**begun, "step": n, "run_step": 30 + n, "loss": 9.0} for n in range(2)]
    again = {**begun, "training": "round-01-again"}
    steps += [{**again, "step": n, "run_step": 30 + n, "loss": 2.5 - n / 4} for n in range(3)]
    steps.append({**again, "step": 0, "run_step": 30, "holdout_loss": 2.75})
    run.append("metrics.jsonl", steps)
    losses = section_of(report(run.uri, REPORTED), "loss")
    line = [text for text in Page(losses).texts if text.strip()]
    at = line.index("round 1, so far")
    # Steps, tokens, first and last loss, holdout before and now; nothing of the training before the retry.
    assert line[at + 1 : at + 7] == ["3", "–", "2.500", "2", "2.750", "2.750"]


def test_a_regeneration_has_its_own_sections(tmp_path: Path) -> None:
    text = report(regeneration(tmp_path / "a"), REPORTED)
    assert BROKEN not in text and SCRIPT not in text
    for key, why in (("pays", "trains no student"), ("loss", "trains no student"), ("answers", "has no student")):
        assert why in section_of(text, key)
    assert Page(section_of(text, "tasks")).figures == 1 and Page(section_of(text, "filters")).figures == 1
    rows = section_of(text, "rows")
    assert "new answer preferred" in rows and "old answer kept" in rows and "other answer · 1" in rows


def test_long_texts_are_cut_and_the_page_stays_under_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = finished_run(tmp_path)
    context = started_run(tmp_path / "b")
    rows = scored(1, 1.0)
    for row in rows:
        row |= {"messages": asked("&" * 90_000), "student_response": "<" * 90_000, "response": '"' * 90_000}
    context.run.write_rows(context.loop.round(1).scored, conform(rows, SCORED))
    text = report(context.run.uri, REPORTED)
    assert len(text.encode()) < MOST_BYTES and "(90,000 characters)" in text
    monkeypatch.setattr(report_module, "READING_BYTES", 20_000)
    assert re.search(r"hardest: \d+ more rows are left out", report(uri, REPORTED))


def test_a_section_that_fails_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(view: object) -> Section:
        raise KeyError(SCRIPT)

    monkeypatch.setitem(report_module.SECTIONS, "Judge", broken)
    text = report(finished_run(tmp_path), REPORTED)
    assert f"{BROKEN}: KeyError" in section_of(text, "judge") and SCRIPT not in text
    assert "the curriculum paid" in text


def test_a_report_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = finished_run(tmp_path)
    assert save(uri, REPORTED) == f"{uri}/report.html" and Path(uri, "report.html").exists()

    def full(*_: object) -> str:
        raise OSError("No space left on device")

    monkeypatch.setattr(report_module, "report", full)
    assert save(uri, REPORTED) is None
    assert "could not be written" in caplog.text and "No space left" in caplog.text


def test_the_command_writes_a_file_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, out = finished_run(tmp_path), tmp_path / "page.html"
    capsys.readouterr()
    assert cli.main(["report", uri, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}\n" and out.read_text().startswith("<!DOCTYPE html>")
    assert cli.main(["report", str(tmp_path / "nothing")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert cli.main(["report", uri, "--out", str(tmp_path / "no" / "folder.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_three_runs_are_compared_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uris = [finished_run(tmp_path, better=better, name=name) for name, better in (("a", 1.0), ("b", 0.5), ("c", 1.0))]
    out = tmp_path / "page.html"
    capsys.readouterr()
    assert cli.main(["compare", *uris, "--report", str(out)]) == 0
    shown, text = capsys.readouterr().out, out.read_text()
    assert shown.count("last round (2, of the other 2)") == 2 and f"report: {out}" in shown
    assert BROKEN not in text and SCRIPT not in text and Page(text).figures >= 3
    assert "Round 2 of a/run over round 2 of b/run: +1.00 [+1.00, +1.00] (24 rows): better." in text
    assert "no difference is shown" in text and "first is better than b/run" in text


@pytest.mark.parametrize(
    ("answer", "share"),
    [("a b c a b c a b c", 4 / 7), ("one two three four five six seven nine", 0.0), ("x", None)],
)
def test_repetition_is_the_share_of_repeated_3_grams(answer: str, share: float | None) -> None:
    assert repetition(answer) == (None if share is None else pytest.approx(share))


def test_orders_agree_if_both_prefer_the_same_answer() -> None:
    """Guards against reading the stored gap, which has no sign, as a sign."""
    # Differences of the two orders: (3, 1) agree, (2, -1) do not, (0, 0) is a tie twice, (1, 0) is not.
    rows = pa.table({"teacher_score": [8.0, 6.5, 5.0, 5.5], "student_score": [6.0, 6.0, 5.0, 5.0],
                     "position_gap": [2.0, 3.0, 0.0, 1.0]})  # fmt: skip
    assert [agreeing(rows.slice(n, 1)) for n in range(4)] == [1, 0, 1, 0]


def test_the_means_by_criterion_are_those_of_the_rows(tmp_path: Path) -> None:
    context = started_run(tmp_path / "run", judge={"mode": "rubric"})
    rows = scored(0, 1.0)
    for n, (teacher, student) in enumerate([(9.0, 4.0), (7.0, 5.0)]):
        rows[n]["criterion_scores"] = json.dumps({"teacher": {"accuracy": teacher}, "student": {"accuracy": student}})
    rows[2]["criterion_scores"] = json.dumps({"teacher": {"steps": 8.5}, "student": {"steps": 8.0}})
    context.run.write_rows(context.loop.round(1).scored, conform(rows, SCORED))
    section = section_of(report(context.run.uri, REPORTED), "judge")
    cells = [
        re.sub("<[^>]*>", " ", line).split() for line in section.split("<tr>") if "accuracy" in line or "steps" in line
    ]
    assert [line[2:7] for line in cells] == [
        ["accuracy", "2", "8", "4.500", "3.500"],
        ["steps", "1", "8.500", "8", "0.500"],
    ]
