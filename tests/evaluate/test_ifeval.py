"""The suite `ifeval`: verdicts of the checks, broken files, metrics, and the whole suite on an endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import Config, parse
from tapir_ray.data.schemas import conform
from tapir_ray.errors import InputError
from tapir_ray.evaluate.ifeval import SCHEMA, by_group, checked, metrics, read_prompts
from tapir_ray.evaluate.registry import suites
from tapir_ray.steps import evaluate
from tapir_ray.transforms.ifeval_checks import Checked, Prompt, check
from tests.llm.endpoint import running
from tests.steps.contexts import rows_of, write
from tests.steps.test_evaluate import context_of

for name in ("lm_eval", "langdetect", "nltk", "punkt"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'tapir-ray[ifeval]'")

COMMA, WORDS = "punctuation:no_comma", "length_constraints:number_words"
SENTENCES, LOWER = "length_constraints:number_sentences", "change_case:english_lowercase"
ROWS = [
    {"key": 1, "prompt": "Say hi without commas.", "instruction_id_list": [COMMA], "kwargs": [{}]},
    {
        "key": 2,
        "prompt": "Name a city in at least 3 words, without commas.",
        "instruction_id_list": [COMMA, WORDS],
        "kwargs": [{}, {"relation": "at least", "num_words": 3}],
    },
    {"key": 3, "prompt": "Anything in lower case.", "instruction_id_list": [LOWER], "kwargs": [{"num_words": None}]},
]


def config_of(path: str | None) -> Config:
    evaluate = {"only": True, "suites": ["ifeval"], "ifeval": {"path": path}}
    return parse({"name": "x", "student": {"model": "m"}, "evaluate": evaluate})


def answered(answers: list[str | None], folder: Path) -> list[dict[str, Any]]:
    rows = read_prompts(config_of(write(folder / "prompts.jsonl", ROWS)))
    return [{**row, "student_response": text} for row, text in zip(rows, answers, strict=True)]


def sentences(relation: str, number: int) -> Prompt:
    return Prompt("p", [SENTENCES], [{"relation": relation, "num_sentences": number}])


def test_abbreviations_do_not_end_sentences() -> None:
    """A split at every full stop would count six: the English sentence model is there, without a download."""
    text = "Mr. Smith went to the U.S. in Jan. 2020. He left at 5 p.m. on a Friday."
    assert check(sentences("less than", 3), text) == Checked([True], [True])
    assert check(sentences("at least", 3), text) == Checked([False], [False])


def test_a_loose_check_ignores_the_first_line_and_asterisks() -> None:
    assert check(Prompt("p", [LOWER], [{}]), "SURE!\nthe cat sat on the mat and looked at the dog") == Checked(
        [False], [True]
    )


def test_the_language_of_an_answer_is_the_same_every_time() -> None:
    """Without a fixed seed this text is Italian in some calls and Spanish in others."""
    prompt = Prompt("p", ["language:response_language"], [{"language": "it"}])
    assert len({tuple(check(prompt, "via casa").strict) for _ in range(30)}) == 1


def test_an_empty_answer_follows_nothing(tmp_path: Path) -> None:
    found = checked(conform(answered(["", None, " "], tmp_path), SCHEMA)).to_pylist()
    assert [row["strict"] for row in found] == [[False], [False, False], [False]]
    assert {row["student_score"] for row in found} == {0.0}


def test_the_metrics_count_prompts_and_instructions(tmp_path: Path) -> None:
    answers = ["Hi there.", "Rome, of course, it is.", "**Sure:**\nthe cat sat on the mat and looked at the dog"]
    rows = checked(conform(answered(answers, tmp_path), SCHEMA)).to_pylist()
    assert [row["strict"] for row in rows] == [[True], [False, True], [False]]
    assert [row["loose"] for row in rows] == [[True], [False, True], [True]]
    assert [row["student_score"] for row in rows] == [1.0, 0.0, 0.0]
    found = {name: (metric.value, metric.rows) for name, metric in metrics(rows).items()}
    assert found == {
        "prompt_strict": (0.3333, 3),
        "prompt_loose": (0.6667, 3),
        "instruction_strict": (0.5, 3),
        "instruction_loose": (0.75, 3),
        "mean_strict": (0.4167, 3),
        COMMA: (0.5, 2),
        WORDS: (1.0, 1),
        LOWER: (0.0, 1),
    }
    assert by_group(rows) == {"change_case": 0.0, "length_constraints": 1.0, "punctuation": 0.5}


def test_an_unanswered_item_passes_unchanged(tmp_path: Path) -> None:
    failed = {**answered(["a", "b", "c"], tmp_path)[0], "status": "failed", "reason": "r", "student_response": None}
    (row,) = checked(conform([failed], SCHEMA)).to_pylist()
    assert (row["status"], row["reason"], row["strict"], row["student_score"]) == ("failed", "r", None, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"instruction_id_list": ["punctuation:none"]}, "no check is known for 'punctuation:none'"),
        ({"kwargs": []}, "lists of one length"),
        ({"prompt": " "}, "prompt must be a text"),
        ({"prompt": ROWS[1]["prompt"]}, "has the prompt of"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write(tmp_path / "prompts.jsonl", [{**ROWS[0], **change}, *ROWS[1:]])
    with pytest.raises(InputError, match=f"evaluate.ifeval.path .*{says}"):
        read_prompts(config_of(path))


@pytest.mark.parametrize(("path", "says"), [(None, "is missing: give the path of IFEval's"), ("/none", "not a file")])
def test_a_missing_file_is_named(path: str | None, says: str) -> None:
    with pytest.raises(InputError, match=f"evaluate.ifeval.path .*{says}"):
        read_prompts(config_of(path))


def test_the_public_file_has_541_prompts_and_834_instructions(data_folder: Path) -> None:
    rows = read_prompts(config_of(str(data_folder / "eval" / "ifeval_input_data.jsonl")))
    assert (len(rows), sum(len(row["instructions"]) for row in rows)) == (541, 834)
    assert {kind for row in rows for kind in row["instructions"]} >= {COMMA, WORDS, SENTENCES, LOWER}
    # An answer that repeats its prompt breaks no check.
    found = checked(conform([{**row, "student_response": row["messages"][0]["content"]} for row in rows], SCHEMA))
    assert set(found["status"].to_pylist()) == {"ok"}


def test_the_suite_asks_greedily_and_keeps_its_verdicts(tmp_path: Path, ray_local: None) -> None:
    def answer(body: dict[str, Any], attempt: int) -> str:
        assert (body["temperature"], body["max_tokens"]) == (0.0, 77)
        return "Hi there." if "hi" in json.dumps(body["messages"]) else "Rome, Italy."

    with running(answer) as endpoint:
        path = write(tmp_path / "prompts.jsonl", ROWS[:2])
        suite: dict[str, Any] = {"suites": ["ifeval"], "ifeval": {"path": path, "max_tokens": 77}}
        context = context_of(tmp_path, endpoint.url, holdout={"rows": 0}, evaluate=suite)
        with context.roles:
            evaluate.evaluate(context)
    rows = {row["key"]: row for row in rows_of(context, "evaluation/ifeval")}
    assert rows[1]["strict"] == [True] and rows[2]["strict"] == [False, False]
    ((table, found),) = suites(context.run, context.config, context.loop, context.roles).items()
    summary = found.summary(table)
    assert (summary.mean, summary.rows, summary.metrics["instruction_strict"].value) == (0.5, 2, 0.3333)
