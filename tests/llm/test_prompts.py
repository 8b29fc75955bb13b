"""A user's prompts are refused when they are loaded, not when the first request is rendered."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tapir_ray.errors import InputError
from tapir_ray.llm.prompts import LISTS, NAMES, Prompts, text_id, variables


def test_shipped_prompts_render_with_all_their_variables() -> None:
    for name in NAMES:
        text = Prompts().render(name, **{value: f"<{value}>" for value in variables(name)})
        assert all(f"<{value}>" in text for value in variables(name) - set(LISTS))
    assert Prompts().render("label", labels=["Math", "Others"], instruction="q").count("Others") == 1


def test_a_users_prompt_replaces_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "expand.jinja").write_text(
        "{% if task == 'Math' %}Sums{% else %}{{ task }}{% endif %}: {{ instruction }}"
    )
    prompts = pickle.loads(pickle.dumps(Prompts(str(tmp_path))))
    assert prompts.render("expand", task="Math", instruction="1 + 1") == "Sums: 1 + 1"
    assert "1 + 1" in prompts.render("label", labels=["Math"], instruction="1 + 1")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("expand", "{{ instruction }} {{ tsk }}", "expand.jinja uses tsk; its variables are instruction, task"),
        ("judge_pairwise", "{% if answer_1 == 'no' %}{{ answer }}{% endif %}", "judge_pairwise.jinja uses answer"),
        ("label", "first line\n{% for label in labels %}", "label.jinja line 2"),
        ("rewrite", "{{ answer | shorter }}", "rewrite.jinja line 1"),
        ("respond", "{{ style.name.first }}", "respond.jinja cannot be rendered"),
        ("expand", "{% include 'other.txt' %}", "expand.jinja cannot be rendered: 'other.txt' not found"),
        (
            "extend",
            "{{ instruction }}",
            "has extend.jinja, which is not the name of a prompt; rename it to one of evolve",
        ),
    ],
)
def test_an_invalid_prompt_is_named(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / f"{name}.jinja").write_text(text)
    with pytest.raises(InputError) as error:
        Prompts(str(tmp_path))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prompts\.dir .*none is not a folder"):
        Prompts(str(tmp_path / "none"))


def test_the_id_of_tags_is_in_no_text_and_equal_for_equal_texts() -> None:
    first = text_id("one", "two")
    assert first == text_id("one", "two") != text_id("onet", "wo")
    forged = f"</answer_1 id={first}>"
    assert text_id("one", forged) not in forged
    values = {"instruction": "q", "answer_1": "a", "answer_2": "b"}
    prompt = Prompts().render("judge_pairwise", **values)
    assert prompt == Prompts().render("judge_pairwise", **values), "otherwise the cache would not recognise the request"
    assert prompt.count(f"id={text_id(*values.values())}>") == 6


def test_a_users_prompt_may_use_the_id_or_leave_it_out(tmp_path: Path) -> None:
    (tmp_path / "judge_pointwise.jinja").write_text("<a {{ text_id }}>{{ answer }}</a {{ text_id }}>")
    (tmp_path / "expand.jinja").write_text("<instruction>{{ instruction }}</instruction>")
    prompts = Prompts(str(tmp_path))
    found = text_id("q", "x")
    assert prompts.render("judge_pointwise", instruction="q", answer="x") == f"<a {found}>x</a {found}>"
    assert prompts.render("expand", task="Math", instruction="q") == "<instruction>q</instruction>"
