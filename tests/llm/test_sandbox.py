"""A foreign prompt file reads its given variables and nothing else; others are refused before they are rendered."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from tapir_ray.errors import InputError
from tapir_ray.llm.prompts import SHIPPED, Prompts
from tapir_ray.llm.sandbox import environment

ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ task | attr('__class__') }}",
    "{{ '{0.__class__}'.format(task) }}",
    "{{ lipsum.__globals__['os'].environ }}",
    "{{ [task] | map(attribute='__class__') | list }}",
    "{{ task._private }}",
    "{% set found = [] %}{{ found.append(task) }}",
    "{% set found = {} %}{{ found.update(a=1) }}",
    "{% macro m() %}{{ cycler.__init__ }}{% endmacro %}",
]


@pytest.mark.parametrize("text", ESCAPES)
@pytest.mark.parametrize("branch", ["{}", "{{% if task == 'never so' %}}{}{{% endif %}}"])
def test_unsafe_expressions_are_refused_in_every_branch(tmp_path: Path, text: str, branch: str) -> None:
    file = tmp_path / "expand.jinja"
    file.write_text("{{ instruction }}\n" + branch.format(text))
    with pytest.raises(InputError) as error:
        Prompts(str(tmp_path))
    assert str(error.value).startswith(f"prompt {file} line 2 uses ")
    assert "\n" not in str(error.value)


def test_a_prompt_cannot_change_a_list_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "label.jinja").write_text("{{ labels.append('Mine') }}{{ instruction }}")
    with pytest.raises(InputError, match=r"label\.jinja line 1 uses append\(\)"):
        Prompts(str(tmp_path))


def test_a_name_assembled_at_run_time_is_refused_when_it_is_rendered(tmp_path: Path) -> None:
    """The environment is a sandbox, since such names cannot be seen in the text."""
    hidden = "{% set name = '_' * 2 ~ 'class' ~ '_' * 2 %}{{ task[name] }}{{ instruction }}"
    (tmp_path / "expand.jinja").write_text(hidden)
    with pytest.raises(InputError, match=r"prompt .*expand\.jinja cannot be rendered: .*'__class__'.* is unsafe"):
        Prompts(str(tmp_path))
    labels = ["Math"]
    (tmp_path / "any.txt").write_text("{{ labels | attr('app' ~ 'end') }}")
    with pytest.raises(jinja2.exceptions.SecurityError):
        environment([tmp_path]).get_template("any.txt").render(labels=labels)
    assert labels == ["Math"]


def test_included_files_are_checked_too(tmp_path: Path) -> None:
    (tmp_path / "expand.jinja").write_text("{{ instruction }}{% if task == 'x' %}{% include 'part.txt' %}{% endif %}")
    (tmp_path / "part.txt").write_text("{{ task.__class__ }}")
    with pytest.raises(InputError, match=r"prompt .*part\.txt line 1 uses __class__"):
        Prompts(str(tmp_path))
    (tmp_path / "part.txt").write_text("of {{ task }}")
    assert Prompts(str(tmp_path)).render("expand", instruction="q", task="x") == "qof x"


@pytest.mark.parametrize("linked", ["expand.jinja", "part.txt"])
def test_a_link_out_of_the_folder_is_not_sent_to_the_teacher(tmp_path: Path, linked: str) -> None:
    folder, secret = tmp_path / "prompts", tmp_path / "credentials"
    folder.mkdir()
    secret.write_text("planted")
    (folder / "expand.jinja").write_text("{{ instruction }}{% include 'part.txt' %}")
    (folder / "part.txt").write_text("")
    (folder / linked).unlink()
    (folder / linked).symlink_to(secret)
    with pytest.raises(InputError, match=r"is a link to a file outside the folder of prompts") as error:
        Prompts(str(folder))
    assert "planted" not in str(error.value)


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap with such links."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "expand.jinja").write_text("{{ instruction }}!")
    (tmp_path / "expand.jinja").symlink_to("..data/expand.jinja")
    assert Prompts(str(tmp_path)).render("expand", instruction="q", task="t") == "q!"


def test_ordinary_templates_are_accepted(tmp_path: Path) -> None:
    text = "{% set n = namespace(i=0) %}{% for l in labels | sort %}{{ l.upper() }} a__b {{ n.i }}{% endfor %}"
    (tmp_path / "label.jinja").write_text(text + "{{ instruction | truncate(9) | replace('_', '-') }}")
    assert Prompts(str(tmp_path)).render("label", labels=["b", "a"], instruction="_") == "A a__b 0B a__b 0-"
    assert Prompts(str(SHIPPED)).render("expand", instruction="q", task="Math")
