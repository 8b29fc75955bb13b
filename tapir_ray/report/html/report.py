"""The report of a run, and its file in the run's folder.

path = save("s3://bucket/runs/mine", methods)          # …/report.html, or None with a warning on stderr
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from tapir_ray.data.values import one_line
from tapir_ray.report.html.page import MOST_BYTES, page
from tapir_ray.report.html.section import Section
from tapir_ray.report.html.sections import (
    answers,
    contamination,
    cost,
    curriculum,
    filters,
    judge,
    losses,
    overview,
    pays,
    readings,
    revisions,
    tasks,
)
from tapir_ray.report.html.view import Methods, View
from tapir_ray.run.layout import REPORT_FILE
from tapir_ray.run.run import Run

READING_BYTES = 2_000_000
"""Most bytes of the rows to read."""
BROKEN = "This section could not be drawn"

SECTIONS: dict[str, Callable[[View], Section]] = {
    "Overview": overview.section,
    "Does it pay?": pays.section,
    "Curriculum": curriculum.section,
    "Tasks": tasks.section,
    "Kept and filtered": filters.section,
    "Loss": losses.section,
    "Answers": answers.section,
    "Judge": judge.section,
    "Time and money": cost.section,
    "Contamination": contamination.section,
}
"""Sections in the order of the page; the rows to read follow."""
OF_ELAD = {"Curriculum": (revisions.TITLE, revisions.section)}
"""Sections of a run of ELAD, by those that they replace."""


def report(uri: str, methods: Methods) -> str:
    """Returns the page of a run, under MOST_BYTES. Raises InputError if there is no run at `uri`."""
    view = View(uri, methods)
    of_method = OF_ELAD if view.config.work == "elad" else {}
    made = (of_method.get(title, (title, make)) for title, make in SECTIONS.items())
    sections = [drawn(title, functools.partial(make, view)) for title, make in made]
    most = READING_BYTES
    while True:
        rows = drawn("Rows to read", functools.partial(readings.section, view, most))
        text = page(f"{view.config.name}: report", overview.state(view), made_by(f"tapir report {uri}"),
                    [*sections, rows])  # fmt: skip
        if len(text.encode()) < MOST_BYTES or not most:
            return text
        most //= 2


def drawn(title: str, make: Callable[[], Section]) -> Section:
    """Returns a section, or one that says why it could not be drawn: a fault in one must not hide the others."""
    try:
        return make()
    except Exception as error:
        logging.getLogger(__name__).warning("report: %s could not be drawn", title, exc_info=True)
        why = f"{BROKEN}: {type(error).__name__}: {one_line(error)[:200]}"
        return Section(title.lower().replace(" ", "-").strip("?"), title, "", missing=why)


def made_by(command: str) -> str:
    """Returns the last line of the page."""
    return f"Made by {command} at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. The file loads nothing from elsewhere."


def save(uri: str, methods: Methods) -> str | None:
    """Writes `report.html` into the folder of a run and returns its path or URI; None, with a warning, if it cannot.

    A run of days must not fail at its end because its report could not be drawn or written.
    """
    # In a thread of its own: a signal that stops the run raises in the main thread, and must not be caught here.
    with ThreadPoolExecutor(1, "tapir-report") as pool:
        return pool.submit(_save, uri, methods).result()


def _save(uri: str, methods: Methods) -> str | None:
    try:
        run = Run.at(uri)
        run.write_text(REPORT_FILE, report(uri, methods))
        return run.uri_of(REPORT_FILE)
    except Exception as error:
        logging.getLogger(__name__).warning(
            "the report of %s could not be written: %s: %s; try tapir report",
            uri,
            type(error).__name__,
            one_line(error),
        )
        return None
