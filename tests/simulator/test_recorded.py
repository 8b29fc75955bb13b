"""Scenario recorded: the instructions it knows, the new ones it gives, and its grades."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.config import Curriculum
from tapir_ray.curriculum.tasks import load
from tapir_ray.data.schemas import text_of
from tapir_ray.errors import InputError
from tapir_ray.llm.prompts import Prompts
from tapir_ray.simulator.options import Options
from tapir_ray.simulator.recorded import USED_UP, Recorded
from tapir_ray.simulator.rouge import rouge_l
from tapir_ray.transforms.respond import styled_messages
from tests.simulator.asking import prompt, request, styled, user

ROWS = [
    {"instruction": "Calculate the sum.", "input": "2 and 3", "output": "The sum is 5."},
    {"instruction": "Calculate the square root of 16.", "input": "", "output": "It is 4."},
    {"instruction": "What is the average of 4 and 6? Calculate it.", "input": "", "output": "5"},
    {"instruction": "Compute the area of a rectangle of 2 by 3.", "input": "", "output": "6"},
    {"instruction": "", "input": "", "output": "nothing was asked"},
    {"instruction": "Name a colour.", "input": "", "output": "Red."},
]


def respond_messages(instruction: str, own: str) -> list[dict[str, str]]:
    """Returns a styled request for a row with a system message of its own, as written by the respond stage."""
    row = {"messages": [{"role": "system", "content": own}, *user(instruction)], "task": "Math"}
    return styled_messages(Prompts(), row, "In steps.")


def new_instruction(simulator: Recorded, task: str, instruction: str, seed: int) -> str:
    reply = simulator.reply(request(prompt("expand", task=task, instruction=instruction), seed=seed))
    match = re.search(r"<new_instruction>(.*)</new_instruction>", reply, re.DOTALL)
    assert match is not None
    return match.group(1)


@pytest.fixture()
def alpaca(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return str(path)


def test_known_instructions_get_their_recorded_answer_in_any_style(alpaca: str) -> None:
    simulator = Recorded(Options(scenario="recorded", path=alpaca, skip=2))
    joined = "Calculate the sum.\n\n2 and 3"
    assert simulator.reply(request(user(joined))) == "The sum is 5."
    assert simulator.reply(request(styled(joined))) == "The sum is 5."
    rewrite = prompt("rewrite", task="Math", style="s", instruction=joined, answer="six")
    assert simulator.reply(request(rewrite)) == "The sum is 5."
    assert simulator.reply(request(user("Never recorded."))) == ""


def test_only_rows_beyond_skip_are_given_and_consecutive_seeds_differ(alpaca: str) -> None:
    simulator = Recorded(Options(scenario="recorded", path=alpaca, skip=1))
    handed = [new_instruction(simulator, "Math", "Calculate the sum.\n\n2 and 3", seed) for seed in range(3)]
    assert sorted(handed) == sorted(row["instruction"] for row in ROWS[1:4])
    assert new_instruction(simulator, "Math", handed[0], seed=5) != handed[0]


def test_a_task_without_rows_gives_an_empty_instruction(alpaca: str) -> None:
    simulator = Recorded(Options(scenario="recorded", path=alpaca, skip=5))
    reply = simulator.reply(request(prompt("expand", task="Math", instruction=ROWS[1]["instruction"]), seed=1))
    assert reply == f"{USED_UP}<new_instruction></new_instruction>"


def test_the_judge_grades_by_overlap_with_the_recorded_answer(alpaca: str) -> None:
    simulator = Recorded(Options(scenario="recorded", path=alpaca))
    messages = prompt("judge_pairwise", instruction=ROWS[1]["instruction"], answer_1="It is 4.", answer_2="It is 5.")
    assert simulator.reply(request(messages)).splitlines()[-1] == "Scores: 10 7"
    unknown = prompt("judge_pointwise", instruction="Never recorded.", answer="x")
    assert simulator.reply(request(unknown)).splitlines()[-1] == "Score: 1"


@given(st.lists(st.sampled_from("abcd"), max_size=8), st.lists(st.sampled_from("abcd"), min_size=1, max_size=8))
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(given: list[str], wanted: list[str]) -> None:
    table = [[0] * (len(wanted) + 1) for _ in range(len(given) + 1)]
    for i, a in enumerate(given):
        for j, b in enumerate(wanted):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    longest = table[-1][-1]
    expected = 2 * longest / (len(given) + len(wanted))
    assert rouge_l(" ".join(given), " ".join(wanted)) == pytest.approx(expected)
    assert rouge_l(" ".join(wanted).upper(), " ".join(wanted)) == 1.0


def test_conversations_of_other_formats_are_recognised_by_their_whole_context(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": "Now we talk."},
    ]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]
    (tmp_path / "a.json").write_text(json.dumps([{"messages": turns}]))
    (tmp_path / "b.jsonl").write_text(json.dumps({"conversations": sharegpt}))
    pq.write_table(pa.Table.from_pylist([{"messages": turns}]), tmp_path / "c.parquet")
    for name in ("a.json", "b.jsonl", "c.parquet"):
        simulator = Recorded(Options(scenario=str(tmp_path / name)))
        assert simulator.reply(request(turns[:4])) == "Now we talk."
        assert simulator.reply(request(turns[:2])) == "Hi."
        assert simulator.reply(request([*styled("")[:1], *turns[:4]])) == "Now we talk."


def system_file(folder: Path, rows: int) -> str:
    """Pairs with a system prompt each; every other one repeats the question of the one before."""
    path = folder / "system.jsonl"
    lines = []
    for number in range(rows):
        turns = [("system", f"You are guide {number}."), ("user", f"Calculate the sum of {number // 2}."),
                 ("assistant", f"Guide {number} says {number // 2}.")]  # fmt: skip
        lines.append(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
    path.write_text("\n".join(lines))
    return str(path)


def test_a_style_is_removed_and_the_rows_own_system_text_stays(tmp_path: Path) -> None:
    simulator = Recorded(Options(scenario=system_file(tmp_path, 4)))
    for number in range(4):
        instruction, own = f"Calculate the sum of {number // 2}.", f"You are guide {number}."
        asked = respond_messages(instruction, own)
        assert asked[0]["content"].startswith("Task type: Math.") and asked[0]["content"].endswith(own)
        assert simulator.reply(request(asked)) == f"Guide {number} says {number // 2}."
    assert simulator.reply(request(respond_messages("Calculate the sum of 1.", "Nobody."))) == "Guide 2 says 1."


def test_rows_with_a_system_prompt_are_given_answered_and_graded(tmp_path: Path) -> None:
    """50 such pairs once left nothing to give: every draw was `source_used_up`."""
    simulator = Recorded(Options(scenario=system_file(tmp_path, 50), skip=20))
    parent = "[user]\nCalculate the sum of 3."
    handed = {new_instruction(simulator, "Math", parent, seed) for seed in range(100)}
    assert handed == {f"Calculate the sum of {number}." for number in range(10, 25)}
    for new in handed:
        answer = simulator.reply(request(respond_messages(new, "You are guide 3.")))
        assert answer.startswith("Guide ")
        conversation = text_of([{"role": "system", "content": "You are guide 3."}, *user(new)])
        graded = simulator.reply(request(prompt("judge_pointwise", instruction=conversation, answer=answer)))
        assert graded.splitlines()[-1] == "Score: 10"
        labels = simulator.taxonomy.labels
        assert simulator.reply(request(prompt("label", labels=labels, instruction=conversation))) == "Math"


TURN = st.text("ab ?", min_size=1, max_size=3).filter(str.strip)
EXCHANGES = st.lists(st.tuples(TURN, st.sampled_from(["yes", "no"])), min_size=1, max_size=3)


@given(st.lists(st.tuples(st.none() | TURN, EXCHANGES), min_size=1, max_size=6), st.integers(0, 7))
@settings(deadline=None, max_examples=50)
def test_every_later_turn_is_given_once_and_answered_for_any_skip(
    rows: list[tuple[str | None, list[tuple[str, str]]]], limit: int
) -> None:
    lines, turns = [], []
    for system, exchanges in rows:
        messages = [] if system is None else [{"role": "system", "content": system}]
        for question, answer in exchanges:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
        turns.append({question.strip() for question, _ in exchanges})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text("\n".join(lines))
        simulator = Recorded(Options(scenario=str(path), skip=limit))
    seen, later = set().union(*turns[:limit]), set().union(*turns[limit:])
    handed = [turn for unseen in simulator.unseen.values() for turn in unseen]
    assert sorted(handed) == sorted(later - seen)
    for turn in handed:
        assert simulator.reply(request(user(turn))) in ("yes", "no")


def test_an_unusable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"instruction": "Why?"}\n')
    (tmp_path / "broken.json").write_text('[{"instruction": "Why?", "output": "Bec')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "good.jsonl").write_text('{"instruction": "Why?", "output": "Because."}\n')
    (tmp_path / "data" / "cut.json").write_text('[{"instruction": "Why?", "output": "Bec')
    for name in ("recorded", "missing.jsonl", "empty.jsonl", "broken.json", "data"):
        scenario = name if name == "recorded" else str(tmp_path / name)
        with pytest.raises(InputError, match=Path(scenario).stem):
            Recorded(Options(scenario=scenario))


def test_rows_of_alpaca_are_labelled_answered_and_expanded(data_folder: Path) -> None:
    path = data_folder / "seeds" / "alpaca_9k.jsonl"
    simulator = Recorded(Options(scenario="recorded", path=str(path), skip=600))
    rows = [json.loads(line) for line in path.read_text().splitlines()[:600]]
    seeds = {"\n\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows}
    labels = Counter[str]()
    taxonomy = load(Curriculum())
    handed = []
    for number, instruction in enumerate(sorted(seeds)):
        label = simulator.reply(request(prompt("label", labels=taxonomy.labels, instruction=instruction)))
        labels[label] += 1
        assert simulator.reply(request(user(instruction)))
        handed.append(new_instruction(simulator, label, instruction, seed=number * 7919))
    assert len(labels) > 15 and labels["Others"] < 0.5 * len(seeds)
    assert not seeds & set(handed)
    assert all(simulator.reply(request(user(new))) for new in handed if new)
    assert sum(not new for new in handed) < 0.05 * len(handed)
