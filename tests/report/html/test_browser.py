"""The report in headless Chromium: drawn without an error, searchable, sortable, readable on a phone, accessible."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapir_ray import cli
from tapir_ray.methods.forecast import REPORTED
from tapir_ray.report.html.report import report
from tests.report.html.folders import finished_run

pytestmark = pytest.mark.slow
PLAYWRIGHT = pytest.importorskip("playwright.sync_api", reason="pip install 'tapir-ray[browser]'")
AXE = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'tapir-ray[browser]'")
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
DRAWN = "document.documentElement.dataset.drawn"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    with PLAYWRIGHT.sync_playwright() as driver:
        if path is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: install the package chromium, or run playwright install chromium")
        # Chromium's sandbox needs rights that a container may lack; the page is the tests' own.
        made = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    uris = [finished_run(folder, better=better, name=name) for name, better in (("a", 1.0), ("b", 0.5), ("c", 0.2))]
    (folder / "report.html").write_text(report(uris[0], REPORTED))
    assert cli.main(["compare", *uris, "--report", str(folder / "compared.html")]) == 0
    return {name: folder / f"{name}.html" for name in ("report", "compared")}


def opened(browser: Any, file: Path, width: int = 1400, scheme: str = "light") -> tuple[Any, list[str]]:
    """Returns the drawn page, and its errors, failed requests and warnings."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else said.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_function(f"{DRAWN} !== undefined")
    return page, said


@pytest.mark.parametrize("name", ["report", "compared"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_drawn_and_axe_finds_nothing(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    page, said = opened(browser, pages[name], width, scheme)
    figures = page.locator("[data-figure]").count()
    assert figures >= 3 and page.evaluate(DRAWN) == str(figures)
    assert page.locator("[data-figure] svg").count() == figures
    assert said == []
    assert page.title() != "taken"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    found = AXE.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []
    page.context.close()


def test_rows_are_searched_selected_and_sorted(browser: Any, pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["report"])
    rows, visible = page.locator("details.row"), page.locator("details.row:visible")
    total = rows.count()
    page.get_by_label("Search").fill("question 7")
    assert 0 < visible.count() < total
    assert page.locator("#count").inner_text() == f"{visible.count()} of {total} rows"
    page.get_by_label("Search").fill("no row has this")
    assert visible.count() == 0
    page.get_by_label("Search").fill("")
    page.get_by_label("Show").select_option("hardest")
    assert visible.count() == 30
    orders = "rows => rows.map(row => Number(row.dataset.order))"
    page.get_by_label("Sort by").select_option("low")
    low = visible.evaluate_all(orders)
    assert low == sorted(low) and low[0] < low[-1]
    page.get_by_label("Sort by").select_option("high")
    assert visible.evaluate_all(orders) == sorted(low, reverse=True)
    page.context.close()


def test_the_page_can_be_used_by_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    page, _ = opened(browser, pages["report"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    row = page.locator("details.row summary").first
    row.focus()
    page.keyboard.press("Enter")
    assert page.locator("details.row").first.evaluate("element => element.open")
    page.context.close()


def test_a_script_in_the_page_that_is_not_its_own_does_not_run(browser: Any, pages: dict[str, Path]) -> None:
    """Guards against a missing escape: the policy is the second lock."""
    folder = pages["report"].parent
    text = pages["report"].read_text().replace("</main>", "<script>document.title='taken'</script></main>", 1)
    (folder / "planted.html").write_text(text)
    page, said = opened(browser, folder / "planted.html")
    assert page.title() != "taken" and any("Content Security Policy" in line for line in said)
    page.context.close()
