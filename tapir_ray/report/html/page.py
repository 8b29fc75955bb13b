"""Makes the page: one HTML file that holds its charts, its styles and its scripts, and loads nothing.

    text = page("demo", sections)
    len(text.encode()) < MOST_BYTES

Texts of rows are untrusted. Jinja escapes them, and the page's Content-Security-Policy allows only the scripts that the
page was made with (by their hashes) and no connection.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from tapir_ray.data.values import plain
from tapir_ray.report.html.section import Cell, Figure, Section

FILES = Path(__file__).parent / "files"
MOST_BYTES = 5_000_000
"""Largest page."""


def page(title: str, subtitle: str, made: str, sections: Sequence[Section]) -> str:
    """Returns the page with the sections; `made` says when it was made, and by which command."""
    figures = [block for section in sections for block in section.blocks if isinstance(block, Figure)]
    specs = {f"figure-{number}": figure for number, figure in enumerate(figures)}
    names = {id(figure): name for name, figure in specs.items()}
    library, script = Markup(_script_safe(_library())), Markup((FILES / "page.js").read_text())
    return _template().render(
        title=title,
        subtitle=subtitle,
        made=made,
        sections=sections,
        names=names,
        specs=Markup(in_script({name: figure.spec for name, figure in specs.items()})),
        style=Markup((FILES / "page.css").read_text()),
        license=Markup((FILES / "vega_license.txt").read_text()),
        library=library,
        script=script,
        hashes=" ".join(_hash(text) for text in (library, script)),
        kind=lambda block: type(block).__name__,
    )


def in_script(value: Any) -> str:
    """Returns JSON that can stand in a `<script>`: no `<` or `&` in it, whatever the texts in it."""
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def cell(value: Cell) -> str:
    """Returns a value of a grid as text: whole numbers with commas, others with 3 digits, a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.3f}"
    return value if isinstance(value, str) else f"{value:,.0f}"


@functools.cache
def _library() -> str:
    """Returns Vega, Vega-Lite and Vega-Embed as one script, which vl-convert brings along."""
    found: str = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]  # its stub lacks the default
    return found


def _script_safe(text: str) -> str:
    # The end tag of a script ends it also inside a string of it. Browsers hash a script with \n as the only line break.
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r\n", "\n").replace("\r", "\n")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"cell": cell, "pyid": id}
    return environment.get_template("page.html.jinja")
