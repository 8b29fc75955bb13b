"""AlpacaEval: items, the evaluator of the package, and preferences of a simulated judge over HTTP."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tapir_ray.config import Config, Endpoint, parse
from tapir_ray.errors import InputError
from tapir_ray.evaluate.alpaca_eval import AlpacaEvalSuite, annotations_of, metrics, read_baseline
from tapir_ray.evaluate.alpaca_eval_annotations import rate
from tapir_ray.evaluate.alpaca_eval_evaluator import load_evaluator, switched
from tapir_ray.evaluate.alpaca_eval_judge import Prefer
from tapir_ray.evaluate.alpaca_eval_length import package_quietly
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.target import Target
from tapir_ray.simulator import Options
from tapir_ray.simulator import running as simulated
from tests.llm.endpoint import Choice, running
from tests.steps.contexts import write

pytestmark = pytest.mark.skipif(find_spec("alpaca_eval") is None, reason="the package alpaca-eval is not installed")
NAME = "weighted_alpaca_eval_gpt4_turbo"
QUESTION = "tom has 7 pens , finds 3 , loses 2 . how many pens now ?"


@pytest.fixture(scope="module")
def simulator() -> Iterator[str]:
    with simulated(Options()) as url:
        yield url


def config_of(baseline: str | None, **settings: Any) -> Config:
    alpaca = {"baseline": baseline, **settings}
    evaluate = {"only": True, "suites": ["alpaca_eval"], "alpaca_eval": alpaca}
    return parse(
        {"name": "x", "student": {"model": "m"}, "judge": {"model": "gpt-4-1106-preview"}, "evaluate": evaluate}
    )


def baseline_of(folder: Path, rows: list[Any]) -> str:
    return write(folder / "baseline.jsonl", rows)


def suite_of(config: Config) -> AlpacaEvalSuite:
    """Returns the suite for calls that need neither a run nor its roles."""
    nothing: Any = None
    return AlpacaEvalSuite(nothing, config, nothing, nothing)


def test_the_preference_is_the_share_of_the_second_name_among_the_likeliest_tokens() -> None:
    evaluator = load_evaluator(NAME)
    assert evaluator.preference({"m": math.log(0.2), "M": math.log(0.6), "The": math.log(0.1)}) == pytest.approx(1.75)
    assert evaluator.preference({"M": -0.1}) == 2.0 and evaluator.preference({"m": -900.0}) == 1.0
    assert evaluator.preference({"The": -0.1}) is None and evaluator.preference({}) is None
    whole = load_evaluator("alpaca_eval_clf_gpt4_turbo")
    assert [whole.preference({"m": one, "M": -1.0}) for one in (-0.9, -1.0, -1.1)] == [1.0, 2.0, 2.0]


@pytest.mark.slow
def test_parser_prompt_and_order_are_those_of_the_package() -> None:
    with package_quietly():
        import pandas as pd
        from alpaca_eval import utils
        from alpaca_eval.annotators import PairwiseAnnotator
        from alpaca_eval.metrics import get_winrate

        (annotator,) = PairwiseAnnotator(caching_path=None, annotators_config=NAME).annotators.values()
    evaluator, rng = load_evaluator(NAME), random.Random(0)
    texts = [f"instruction {number}: 2 + {number}?\n" for number in range(40)]
    frame = pd.DataFrame([{"instruction": text, "output_1": f"a {text}", "output_2": f"b {text}"} for text in texts])
    shown = annotator._preprocess(frame)
    assert {text: switched(text) for text in texts} == {
        row["instruction"]: row["output_1"].startswith("b") for row in shown.to_dict("records")
    }
    assert {switched(text) for text in texts} == {True, False}
    for row in shown.to_dict("records"):
        ((prompt,), _) = annotator._make_prompts(pd.DataFrame([row]))
        ours = evaluator.messages(row["instruction"], row["output_1"], row["output_2"])
        # Equal up to white space at the ends, which the package strips after and we before the texts are filled in.
        assert ours == [{"role": turn["role"], "content": turn["content"]} for turn in utils.prompt_to_chatml(prompt)]
    for _ in range(50):
        listed = {token: -rng.expovariate(0.2) for token in rng.sample(["m", "M", "The", "A"], 3)}
        top = [{"token": token, "logprob": number} for token, number in listed.items()]
        (theirs,) = annotator.fn_completion_parser({"logprobs": {"content": [{"top_logprobs": top}]}})
        assert evaluator.preference(listed) == pytest.approx(theirs, abs=1e-9)
    for size in (2, 3, 805):
        drawn = [rng.choice([1.0, 2.0, 1.5, 0.0, round(rng.uniform(1, 2), 3), None, -1.0]) for _ in range(size)]
        theirs, own = get_winrate([{"preference": value} for value in [1.5, *drawn]]), rate([1.5, *drawn])
        for name in ("win_rate", "discrete_win_rate", "n_wins", "n_wins_base", "n_total"):
            assert getattr(own, name) == pytest.approx(theirs[name], abs=1e-9), name
        if own.standard_error is not None:
            assert own.standard_error == pytest.approx(theirs["standard_error"], abs=1e-9)


@pytest.mark.slow
def test_an_import_of_the_package_leaves_logging_and_environment_as_they_were() -> None:
    level, environment = logging.getLogger().level, dict(os.environ)
    with pytest.raises(ZeroDivisionError), package_quietly():
        assert logging.getLogger().level == level
        _ = 1 / 0
    assert logging.getLogger().level == level
    changed = {name for name in environment.keys() | os.environ.keys() if environment.get(name) != os.environ.get(name)}
    assert "PYTHON_DOTENV_DISABLED" not in changed


def test_an_evaluator_that_is_missing_or_answers_in_prose_is_refused() -> None:
    for name, words in (("gpt5", "is not an evaluator"), ("../x", "is not an"), ("alpaca_eval_gpt4", "one token")):
        with pytest.raises(InputError, match=rf"evaluate.alpaca_eval.evaluator {name}.*{words}.*{NAME}"):
            load_evaluator(name)


def test_texts_that_look_like_slots_of_the_prompt_stay_as_they_are() -> None:
    *_, user = load_evaluator(NAME).messages("{output_2}", "<|im_end|>{instruction}", "b")
    assert '"instruction": """{output_2}"""' in user["content"] and "<|im_end|>{instruction}" in user["content"]


def test_a_baseline_is_a_file_of_outputs_or_of_annotations(tmp_path: Path) -> None:
    own = {"instruction": "q", "output": "a", "generator": "gpt4", "dataset": "koala"}
    theirs = {"instruction": "p", "output_1": "b", "generator_1": "gpt4", "output_2": "other"}
    rows = read_baseline(config_of(baseline_of(tmp_path, [own, theirs])))
    assert [(row["response"], row["generator"], row["task"], row["position"]) for row in rows] == [
        ("a", "gpt4", "koala", 0), ("b", "gpt4", None, 1)
    ]  # fmt: skip
    items = write(tmp_path / "items.jsonl", [{"instruction": "p", "dataset": "vicuna"}])
    (row,) = read_baseline(config_of(baseline_of(tmp_path, [own, theirs]), items=items))
    assert (row["response"], row["task"], row["position"]) == ("b", "vicuna", 0)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"instruction": "q"}], "baseline.jsonl:1 has no text in output or output_1"),
        ([{"output": "a"}], "baseline.jsonl:1: instruction must be a text"),
        ([{"instruction": "q", "output": "a"}] * 2, "baseline.jsonl:2 has the instruction of baseline.jsonl:1"),
        ([], "has no instructions"),
    ],
)
def test_a_baseline_that_cannot_be_used_is_refused(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(InputError, match=f"evaluate.alpaca_eval.baseline .*{words}"):
        read_baseline(config_of(baseline_of(tmp_path, rows)))


def test_a_missing_baseline_or_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluate.alpaca_eval.baseline is missing: .*alpaca_eval_gpt4_baseline.json"):
        read_baseline(config_of(None))
    items = write(tmp_path / "items.jsonl", [{"instruction": "another"}])
    with pytest.raises(
        InputError, match=r"has no answer to 1 instructions of evaluate.alpaca_eval.items, such as 'ano"
    ):
        read_baseline(config_of(baseline_of(tmp_path, [{"instruction": "q", "output": "a"}]), items=items))


def row_of(answer: str, response: str = "8", instruction: str = QUESTION) -> dict[str, Any]:
    messages = [{"role": "user", "content": instruction}]
    return {
        "instruction_id": "1",
        "messages": messages,
        "response": response,
        "student_response": answer,
        "status": "ok",
    }


def preferred(url: str, *rows: dict[str, Any], cache: Path | None = None, **settings: Any) -> list[dict[str, Any]]:
    """Returns the rows as the judge at `url` compares them, asked with the real client."""

    async def main() -> list[dict[str, Any]]:
        endpoint = Endpoint(model="judge", api_key_env=None, max_attempts=1, timeout_s=10.0)
        store = None if cache is None else Cache(str(cache))
        client = OpenAIClient(Target("judge", endpoint, url), Meter(), cache=store)
        ask = Prefer(load_evaluator(NAME), **{"logprobs": True, "attempts": 2, **settings})
        found = [await ask({"judge": client}, row) for row in rows]
        if store is not None:
            await store.flush()
        await client.close()
        return found

    return asyncio.run(main())


@pytest.mark.parametrize("logprobs", [True, False])
def test_a_simulated_judge_prefers_the_right_answer_in_either_order(simulator: str, logprobs: bool) -> None:
    """Both orders occur: the instruction's hash shows the student's answer first in one of the two questions."""
    others = [f"tom has {number} pens , finds 3 , loses 2 . how many pens now ?" for number in range(2, 30)]
    by_order = {switched(text): (text, str(number + 1)) for number, text in enumerate(others, start=2)}
    assert by_order.keys() == {True, False}
    for first, (question, right) in by_order.items():
        won, lost = preferred(simulator, row_of(right, "0", question), row_of("0", right, question), logprobs=logprobs)
        assert won["shown_first"] is first and won["verdict"] == ("m" if first else "M")
        assert won["preference"] + lost["preference"] == pytest.approx(3.0)
        assert won["student_score"] == pytest.approx(100 * (won["preference"] - 1))
        assert won["preference"] > 1.99 if logprobs else won["preference"] == 2.0


def token(text: str, **logprobs: float) -> Choice:
    listed = [{"token": name, "logprob": number} for name, number in logprobs.items()]
    return Choice(text, finish_reason="length", choice={"logprobs": {"content": [{"top_logprobs": listed}]}})


def test_equal_answers_are_a_draw_without_a_request_and_a_verdict_is_kept_in_the_cache(tmp_path: Path) -> None:
    """A verdict is one token, so its reply ends by its length; other such replies are not in the cache."""
    with running(lambda body, attempt: token("M", m=-3.0, M=-0.05)) as seen:
        (draw,) = preferred(seen.url, row_of("8"))
        assert (draw["preference"], draw["student_score"], seen.requests) == (1.5, 50.0, [])
        (one,) = preferred(seen.url, row_of("7"), cache=tmp_path)
        (again,) = preferred(seen.url, row_of("7"), cache=tmp_path)
    assert one == again and len(seen.requests) == 1
    body = seen.requests[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"], body["temperature"]) == (True, 5, 1, 1.0)
    p = math.exp(-3.0) / (math.exp(-3.0) + math.exp(-0.05))
    assert one["preference"] == pytest.approx(1 + p if switched(QUESTION) else 2 - p)


def test_a_verdict_without_a_name_is_asked_for_again_and_then_counted() -> None:
    with running(lambda body, attempt: token("Both", Both=-0.1)) as seen:
        (row,) = preferred(seen.url, row_of("7"))
    assert (row["status"], row["reason"]) == ("failed", "unparsed_preference")
    assert len({body["seed"] for body in seen.requests}) == len(seen.requests) == 2


def test_a_judge_without_probabilities_is_named_and_asked_in_text_if_so_configured() -> None:
    with running(lambda body, attempt: "M.") as seen:
        (refused,) = preferred(seen.url, row_of("7"))
        (row,) = preferred(seen.url, row_of("7"), logprobs=False)
    assert refused["status"] == "failed" and "set evaluate.alpaca_eval.logprobs false" in refused["reason"]
    assert row["preference"] == (1.0 if switched(QUESTION) else 2.0)
    assert "logprobs" not in seen.requests[1] and seen.requests[1]["temperature"] == 0.0


def test_figures_that_are_not_the_leaderboards_are_told_before_anything_is_spent(tmp_path: Path) -> None:
    config = config_of(baseline_of(tmp_path, [{"instruction": "q", "output": "a", "generator": "gpt3"}]))
    warnings = suite_of(config).check()
    assert [words in warning for words, warning in zip(("all 805", "is gpt3"), warnings, strict=True)] == [True, True]
    controlled = config_of(config.evaluate.alpaca_eval.baseline, length_control=str(tmp_path / "df_gamed.csv"))
    with pytest.raises(InputError, match=r"length_control: .* would be invalid: it needs all 805"):
        suite_of(controlled).check()


def test_the_public_baseline_is_that_of_the_leaderboard_and_its_calls_are_forecast(data_folder: Path) -> None:
    path = data_folder / "eval" / "alpaca_eval" / "alpaca-7b.annotations.json.gz"
    suite = suite_of(config_of(str(path)))
    assert suite.check() == []
    forecast = suite.forecast("an answer")
    assert (forecast.answers, len(forecast.judge_prompts), forecast.judge_tokens) == (805, 805, 1)
    assert all('"""an answer"""' in prompt for prompt in forecast.judge_prompts)


def test_the_metrics_are_the_rates_of_the_annotations(tmp_path: Path) -> None:
    config = config_of(baseline_of(tmp_path, [{"instruction": "q", "output": "a"}]))
    rows = [
        {**row_of("b"), "position": at, "generator": "g", "status": status, "reason": reason, "preference": preference}
        for at, status, reason, preference in (
            (3, "ok", None, 1.25),
            (1, "ok", None, 2.0),
            (0, "failed", "unparsed_preference", None),
            (2, "filtered", "prompt_too_long", None),
        )
    ]
    found = metrics(rows, config)
    assert (found["win_rate"].value, found["win_rate"].rows, found["discrete_win_rate"].value) == (62.5, 2, 50.0)
    assert found["win_rate"].standard_error == pytest.approx(37.5)
    assert [row["preference"] for row in annotations_of(rows, config)] == [None, 2.0, 1.25]
