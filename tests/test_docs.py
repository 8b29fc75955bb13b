"""Pages for readers: links resolve, the README stays short, and docs/config.md has every key with its default."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tapir_ray
from tapir_ray.config import Config, Endpoint, Judge, Section
from tapir_ray.config.keys import section_of
from tapir_ray.config.section import default_of
from tapir_ray.config.yaml_files import read_yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "cluster").glob("*.md")])
LIBRARIES = ("out of memory", "ray status", "--address")
"""Words on the page of troubleshooting that are no message of ours."""
NAMED_IN_WORDS = ("thinking_marks",)
"""Keys whose default is a list; the page describes it in words."""


def outside_code(page: Path) -> str:
    """Returns the page without fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", outside_code(page), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.replace("`", "")).strip().lower() for title in titles]
    return {title.replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", outside_code(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index] == ["README.md"]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """A page that no menu has, a dead link or anchor: each is a warning, and a warning ends the build."""
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert (built.returncode, built.stderr) == (0, ""), built.stderr
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "config.html#" not in home and 'href="config.html"' in home and "../" not in home


def test_messages_on_the_page_of_troubleshooting_are_messages_of_the_code() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| ") and "`" in row.split("|")[1]]
    parts = {part.strip(" (,:") for row in rows for text in re.findall(r"`([^`]+)`", row) for part in text.split("…")}
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tapir_ray").rglob("*.py"))
    # A message may go over several lines, and has values in it.
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    sources = joined + re.sub(r"\{[^{}]*\}", "", joined)
    plain = {part for part in parts if part and part not in LIBRARIES}
    assert len(plain) > 25 and [part for part in sorted(plain) if part not in sources] == []


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
    assert [name for name in tapir_ray.__all__ if f".{name}\n" not in page] == ["Config"]
    assert "config.md" in page, "a page of its own has the keys of Config"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def section_at(path: str) -> type[Section]:
    found: type[Section] = Config
    for name in path.split(".") if path else []:
        below = section_of(found.model_fields[name])
        assert below is not None, f"docs/config.md has a heading {path}, which is no section"
        found = below
    return found


def sections(top: type[Section]) -> set[type[Section]]:
    below = {kind for field in top.model_fields.values() if (kind := section_of(field)) is not None}
    return {top}.union(*(sections(kind) for kind in below))


def documented() -> dict[str, dict[str, str]]:
    """Returns the default of each key as written in docs/config.md, by the heading of its table."""
    found: dict[str, dict[str, str]] = {}
    for part in (ROOT / "docs/config.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", text, flags=re.MULTILINE)
        found["" if title == "The top" else title] = dict(rows)
    return found


def test_the_page_of_the_config_has_every_key() -> None:
    pages = documented()
    assert {section_at(path) for path in pages} == sections(Config)
    for path, rows in pages.items():
        section = section_at(path)
        keys = {key for key, field in section.model_fields.items() if section_of(field) is None}
        if section is Judge:
            keys -= Endpoint.model_fields.keys()
        assert rows.keys() == keys, f"docs/config.md, {path}"


@pytest.mark.parametrize("path", documented())
def test_the_page_of_the_config_has_every_default(path: str) -> None:
    section = section_at(path)
    for key, written in documented()[path].items():
        if key in NAMED_IN_WORDS:
            continue
        required = section.model_fields[key].is_required()
        shown = written.removesuffix(" ◦")
        assert required == (shown == "required"), f"{path}.{key}"
        assert required or read_yaml(shown.strip("`").replace("\\|", "|"), key).value == default_of(section, key), (
            f"{path}.{key}"
        )
