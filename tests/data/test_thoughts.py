"""Thoughts are split from an answer at their marks; a text about the marks stays whole."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tapir_ray.data.thoughts import DEFAULT_MARKS, HARMONY, split_thoughts

CODE = "re.sub('<think>.*?</think>', '', text)"
FINAL = "<|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(("opening", "closing"), [mark for mark in DEFAULT_MARKS if mark != HARMONY])
@pytest.mark.parametrize("prompt_opened", [False, True])
def test_thoughts_between_any_of_the_marks_are_split_off(opening: str, closing: str, prompt_opened: bool) -> None:
    text = f"{'' if prompt_opened else opening}\n2 + 2\n{closing}\n\nThe answer is 4."
    assert split_thoughts(text) == ("2 + 2", "The answer is 4.", True)
    assert split_thoughts(f"{opening}2 + 2") == ("2 + 2", "", False)


@pytest.mark.parametrize(
    ("text", "split"),
    [
        (f"<|channel|>analysis<|message|>a<|end|>{FINAL}b<|return|>", ("a", "b", True)),
        (f"a<|end|>{FINAL}b", ("a", "b", True)),
        ("<|channel|>final<|message|>b<|return|>", (None, "b", True)),
        ("<|channel|>analysis<|message|>a", ("a", "", False)),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.x "
            "<|constrain|>json<|message|>{}<|call|>",
            ("a\n\n{}", "", False),
        ),
        ("analysisWe add.assistantfinal4", ("We add.", "4", True)),
        ("analysisWe add.", ("We add.", "", False)),
        ("analysis of the text", (None, "analysis of the text", True)),
        ("analysis's end", (None, "analysis's end", True)),
    ],
)
def test_the_channels_of_harmony_are_split(text: str, split: tuple[str | None, str, bool]) -> None:
    assert split_thoughts(text) == split


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("<think>a</think><think>b</think>c", ("a\n\nb", "c", True)),
        ("<think>a</think><think>b", ("a\n\nb", "", False)),
        ("<think><think>a</think></think>b", ("<think>a</think>", "b", True)),
        ("<THINK>a</Think>b", ("a", "b", True)),
        ("\ufeff \n<think>\n\n</think>\n\nb", (None, "b", True)),
        ("<think>x</think><answer>\n4\n</answer>", ("x", "4", True)),
        ("<think>\n```py\nx\n</think>\n\nb\n```py\ny\n```", ("```py\nx", "b\n```py\ny\n```", True)),
        ('<think>x</think>Write "</think>" at the end.', ("x", 'Write "</think>" at the end.', True)),
        (f"<think>I strip it</think>\n{CODE}", ("I strip it", CODE, True)),
        ("so it is 4. </think> The answer is 4.", ("so it is 4.", "The answer is 4.", True)),
    ],
)
def test_repeated_nested_and_code_blocks_are_split(text: str, split: tuple[str | None, str, bool]) -> None:
    assert split_thoughts(text) == split


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        "Models write `<think>` before they answer.",
        "Use `</think>` to end the thoughts.",
        "The </think> tag ends the thoughts.",
        'Split at "</think>", then take the last part.',
        "Strip it with `text.split('</think>')[-1]`.",
        "An example:\n```\n<think>\na\n</think>\nb\n```\nThat is all.",
        "An example:\n```\na\n</think>\nb\n```\nThat is all.",
        "4, as <think>2 + 2</think> shows",
        "The token <|channel|>final<|message|> begins the answer.",
        "A plain answer.",
        "",
        "  with spaces  ",
    ],
)
def test_an_answer_about_the_marks_stays_whole(text: str) -> None:
    assert split_thoughts(text) == (None, text, True)


def test_only_the_given_marks_count() -> None:
    assert split_thoughts("<think>a</think>b", [("[[", "]]")]) == (None, "<think>a</think>b", True)
    assert split_thoughts("[[a]]b", [("[[", "]]")]) == ("a", "b", True)
    assert split_thoughts("<|channel|>final<|message|>b", []) == (None, "<|channel|>final<|message|>b", True)


PLAIN = st.text(st.characters(exclude_characters="<[◁`~\"'“‘«„「"), max_size=40)


@given(PLAIN, PLAIN, st.booleans(), st.sampled_from(DEFAULT_MARKS[:-1]), st.sampled_from(["", "\n"]))
def test_no_thoughts_are_left_in_an_answer(
    thoughts: str, answer: str, opened: bool, mark: tuple[str, str], end: str
) -> None:
    # Between words a mark is part of a sentence about it.
    assume(end or not (thoughts.endswith(" ") and answer[:1] in {*" .,;:!?)"}))
    content = f"{mark[0] if opened else ''}{thoughts}{end}{mark[1]}{answer}"
    assert split_thoughts(content) == (thoughts.strip() or None, answer.lstrip(), True)


@given(st.lists(st.sampled_from([*sum(DEFAULT_MARKS, ()), "a", " ", "\n", "`", "```\n", "'", "<|end|>"]), max_size=12))
def test_any_order_of_marks_is_split_without_an_error(pieces: list[str]) -> None:
    text = "".join(pieces)
    _, answer, complete = split_thoughts(text)
    assert complete or answer == ""
    assert answer in text
