"""Text of the user's rows is printed as it is: no markup of a terminal, of Markdown or of HTML."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from tapir_ray.config import Curriculum
from tapir_ray.curriculum.tasks import load
from tapir_ray.errors import InputError
from tapir_ray.report.console import console
from tapir_ray.steps.dataset_card import in_markdown

NAMES = ["[red]", "[/]", "[/red]", ":bug:", "<b>", "[link=x]y[/link]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_task_that_looks_like_markup_is_printed_unchanged(name: str) -> None:
    file = io.StringIO()
    out = console(file)
    table = Table(name, title=name)
    table.add_row(name)
    out.print(table)
    out.print(f"{name}: a warning")
    assert file.getvalue().count(name) == 4


def test_a_card_escapes_markup_of_the_rows() -> None:
    table = in_markdown(("task", "rows"), [("<b>x</b> | [a](b)\n", 1)])
    assert "&lt;b&gt;x&lt;/b&gt; \\| \\[a](b) | 1" in table
    assert len(table.splitlines()) == 3


def test_a_task_name_of_a_taxonomy_is_one_line(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "tasks.yaml"
    file.write_text('tasks: {"a\\nb\\e[31m": {weight: 0.5}, "[red]": {weight: 0.5}}')
    assert load(Curriculum(tasks=str(file))).labels == ("a b [31m", "[red]")
    file.write_text('tasks: {"a\\nb": {weight: 0.5}, "a b": {weight: 0.5}}')
    with pytest.raises(InputError, match="the name of another task"):
        load(Curriculum(tasks=str(file)))
