"""Hooks of the documentation site: pages of the repository's root are part of it, links to its files are text.

GitHub shows the same pages, so their links lead to files. A site has no such files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OF_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the root and their names in the site."""
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
BLOCK = re.compile(r"(^```.*?^```)", flags=re.DOTALL | re.MULTILINE)


def slug(text: str, separator: str) -> str:
    """Returns the anchor that GitHub gives to a heading: the links of the pages name these."""
    return re.sub(r"[^\w\- ]", "", text).strip().lower().replace(" ", separator)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the root to the site."""
    for page, name in OF_ROOT.items():
        files.append(File.generated(config, name, content=(ROOT / page).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Returns the page with the links of the site, outside of blocks of code."""
    source = {name: page for page, name in OF_ROOT.items()}.get(page.file.src_uri)
    folder = ROOT if source else (ROOT / "docs" / page.file.src_uri).parent
    parts = BLOCK.split(markdown)
    parts[::2] = [LINK.sub(lambda link: _linked(link, folder), part) for part in parts[::2]]
    return "".join(parts)


def _linked(link: re.Match[str], folder: Path) -> str:
    text, target = link.groups()
    path, _, anchor = target.partition("#")
    if not path or "://" in target:
        return link.group(0)
    place = (folder / path).resolve()
    if place == ROOT / "docs" / "README.md":
        return f"[{text}](index.md)"
    if place.parent == ROOT and place.name in OF_ROOT:
        return f"[{text}]({OF_ROOT[place.name]}{'#' + anchor if anchor else ''})"
    if (ROOT / "docs") in place.parents:
        # The pages of the root move into the folder of the pages.
        return f"[{text}]({place.relative_to(ROOT / 'docs').as_posix()}{'#' + anchor if anchor else ''})"
    return text if text.startswith("`") else f"{text} (`{place.relative_to(ROOT).as_posix()}`)"
