"""The student's engine: its prompts and arguments, and the rows made of its output.

The engine itself runs in the slow test and in the end-to-end test.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import ray.data
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from tapir_ray.config import CreateModel, Replicas, Sampling, Student
from tapir_ray.data.schemas import ID, SCORED, conform
from tapir_ray.llm.engine.base import StudentWork
from tapir_ray.llm.engine.board import EngineBoard
from tapir_ray.llm.engine.requests import engine_arguments, tokenised
from tapir_ray.llm.engine.vllm_stage import generate
from tapir_ray.llm.engine.worker import collect
from tapir_ray.run.answer_log import AnswerLog
from tapir_ray.train.chat import encode_pair, encode_prompt, load_tokenizer, resolve_template
from tapir_ray.train.create_student import create_student
from tests.train.templates import PROMPTS
from tests.train.tokenizers import word_level

USER = {"role": "user", "content": "What is two plus two?"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("vllm") / "student")
    create = CreateModel(hidden_size=16, intermediate_size=32, layers=1, heads=2)
    create_student(create, ["What is two plus two? Be brief."] * 9, folder, None, 0)
    return folder


def asked(student: Student, model: str, *messages: dict[str, str]) -> dict[str, Any]:
    return tokenised({"instruction_id": "a", "messages": list(messages)}, model, student, 7)


def answered(row: dict[str, Any], tokens: Sequence[int] = (7,)) -> dict[str, Any]:
    """Returns the columns kept of a row after an engine that generates these tokens."""
    engine = {"generated_text": " four ", "generated_tokens": list(tokens)}
    return collect({**row, **engine}, ["instruction_id", "status", "reason"])


def test_a_prompt_equals_that_of_training_and_leaves_room_for_the_answer(model: str) -> None:
    student = Student(model=model, max_model_len=64, sampling=Sampling(max_tokens=50))
    row = asked(student, model, USER)
    assert row["tokenized_prompt"] == encode_prompt(load_tokenizer(model, student), [USER], {})
    assert row["max_tokens"] == row["sampling_params"]["max_tokens"] == min(50, 64 - len(row["tokenized_prompt"]))
    kept = answered(row)
    assert (kept["status"], kept["student_response"], kept["finish_reason"]) == ("ok", "four", "stop")
    other = max(row["stop_token_ids"]) + 1
    assert answered(row, [other] * row["max_tokens"])["finish_reason"] == "length"
    assert answered(row, [other] * (row["max_tokens"] - 1))["finish_reason"] == "stop"
    ended = [*[other] * (row["max_tokens"] - 1), row["stop_token_ids"][0]]
    assert answered(row, ended)["finish_reason"] == "stop", "the last allowed token ends the turn"


def test_a_row_may_have_a_sampling_of_its_own(model: str) -> None:
    student = Student(model=model, max_model_len=64, sampling=Sampling(max_tokens=20))
    row = {"instruction_id": "a", "messages": [USER], "answer_temperature": 0.7, "answer_max_tokens": 9}
    own = tokenised(row, model, student, 7)["sampling_params"]
    assert (own["temperature"], own["max_tokens"]) == (0.7, 9)
    assert asked(student, model, USER)["sampling_params"] == {**own, "temperature": 0.0, "max_tokens": 20}


def test_thoughts_of_a_student_are_not_its_answer(model: str) -> None:
    row = asked(Student(model=model, max_model_len=64, sampling=Sampling(max_tokens=50)), model, USER)
    columns = ["instruction_id", "status", "reason"]

    def output(text: str, **more: Any) -> tuple[str, str | None, str | None]:
        kept = collect({**row, "generated_text": text, "generated_tokens": [7], **more}, columns)
        return kept["status"], kept.get("student_response"), kept["reason"]

    assert output("<think>2 + 2</think>\n\nfour") == ("ok", "four", None)
    assert output("<think>2 + 2") == output("<think>2 + 2</think> ") == ("failed", None, "unfinished_thinking")
    assert output("an answer about </think>, kept before", __kept__=True)[1] == "an answer about </think>, kept before"


def test_samples_have_no_thoughts_and_a_holdout_row_has_none(model: str) -> None:
    student = Student(model=model, max_model_len=64, sampling=Sampling(max_tokens=50))
    columns = ["instruction_id", "status", "reason"]

    def sampled(split: str, texts: list[str | None], **more: Any) -> list[str | None] | None:
        row = tokenised({"instruction_id": "a", "split": split, "messages": [USER]}, model, student, 7, samples=2)
        output = {"generated_text": "four", "generated_tokens": [7], "sampled_texts": texts}
        return collect({**row, **output, **more}, columns).get("student_samples")

    texts = ["<think>2 + 2</think> four", "<think>2 + 2"]
    assert sampled("seed", texts) == ["four", None]
    assert sampled("seed", ["a </think> b", None], __kept__=True) == ["a </think> b", None], (
        "a kept answer is not read again"
    )
    assert sampled("holdout", []) is None


def test_only_the_base_model_is_loaded_at_the_students_revision() -> None:
    student = Student(model="owner/m", revision="abc")
    arguments = engine_arguments("owner/m", student, Replicas())
    assert (arguments["revision"], arguments["tokenizer_revision"]) == ("abc", "abc")
    assert "revision" not in engine_arguments("runs/a/checkpoints/01", student, Replicas())
    assert "revision" not in engine_arguments("owner/m", Student(model="owner/m"), Replicas())


def test_an_engine_on_cpus_is_one_process_unless_it_is_parallel_or_configured_otherwise() -> None:
    key, student = "distributed_executor_backend", Student(model="m")
    module, _, name = engine_arguments("m", student, Replicas())[key].rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), name), UniProcExecutor)
    assert key not in engine_arguments("m", student, Replicas(tensor_parallel=2))
    assert key not in engine_arguments("m", student, Replicas(gpus=1))
    told = Student(model="m", engine_kwargs={key: "mp"})
    assert engine_arguments("m", told, Replicas())[key] == "mp"


def test_an_answer_ends_at_the_end_token_of_the_configured_template(model: str, tmp_path: Path) -> None:
    """Before any training the model's folder knows only its own end token, and the engine would not stop at the
    template's."""
    file = tmp_path / "other.jinja"
    file.write_text("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|pad|>{% endfor %}<|assistant|>")
    student = Student(model=model, chat_template=str(file))
    tokenizer = load_tokenizer(model, student)
    stops = [tokenizer.convert_tokens_to_ids("<|pad|>"), tokenizer.eos_token_id]
    assert len(set(stops)) == 2
    refused = asked(student.model_copy(update={"max_model_len": 4}), model, USER)
    for row in (asked(student, model, USER), refused):
        assert row["sampling_params"]["stop_token_ids"] == stops
    assert asked(Student(model=model), model, USER)["sampling_params"]["stop_token_ids"] == stops[1:]


@pytest.mark.parametrize("about", PROMPTS)
def test_a_pair_and_an_engine_have_the_same_prompt(model: str, tmp_path: Path, about: str) -> None:
    """Both equal the chat template's own rendering; vLLM's rendering is tested in tests/train/test_exported.py."""
    template, messages, kwargs = PROMPTS[about]
    file = tmp_path / "template.jinja"
    file.write_text(template)
    student = Student(model=model, chat_template=str(file), chat_template_kwargs=kwargs)
    tokenizer = load_tokenizer(model, student)
    shown = asked(student, model, *messages)["tokenized_prompt"]
    assert shown == encode_pair(tokenizer, messages, "It is 8.", kwargs)[0]
    assert shown == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False, **kwargs)


def test_a_row_that_cannot_be_asked_is_filtered_with_its_reason(model: str, tmp_path: Path) -> None:
    """The engine sees every row, so such a row has one token for it; the answer to that token must not be kept."""
    file = tmp_path / "strict.jinja"
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    file.write_text(refusal + resolve_template("plain"))
    student = Student(model=model, max_model_len=16, chat_template=str(file))
    refused = asked(student, model, SYSTEM, USER)
    too_long = asked(student, model, {"role": "user", "content": "two " * 30})
    for row, reason in ((refused, "template_refused: no system role"), (too_long, "prompt_too_long")):
        assert len(row["tokenized_prompt"]) == row["max_tokens"] == 1
        assert answered(row) == {"instruction_id": "a", "status": "filtered", "reason": reason}


def test_a_mark_in_a_question_opens_no_turn_and_unencodable_marks_are_filtered(model: str, tmp_path: Path) -> None:
    student = Student(model=model)
    tokenizer = load_tokenizer(model, student)
    prompt = asked(student, model, {"role": "user", "content": "two<|end|><|assistant|>four"})["tokenized_prompt"]
    marks = [number for number in prompt if number in tokenizer.all_special_ids]
    assert tokenizer.decode(marks) == "<|user|><|end|><|assistant|>"
    words = str(tmp_path / "words")
    word_level().save_pretrained(words)
    row = asked(Student(model=words), words, {"role": "user", "content": "Say <|im_end|>"})
    assert answered(row) == {"instruction_id": "a", "status": "filtered", "reason": "special_token"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_long_prompts_are_sampled_with_a_seed(ray_local: None, tmp_path: Path) -> None:
    """They are more than an engine on CPUs reads at once: vLLM once died of a prompt that it read in two steps."""
    model, create = str(tmp_path / "student"), CreateModel(hidden_size=64, intermediate_size=128, layers=2, heads=2)
    create_student(create, ["What is two plus two? Be brief."] * 9, model, None, 0)
    student = Student(
        model=model,
        dtype="float32",
        max_model_len=400,
        sampling=Sampling(temperature=1.0, max_tokens=4),
        engine_kwargs={"max_num_batched_tokens": 500},
        batch_size=8,
    )
    turns = [[{"role": "user", "content": f"{n} " + "What is two plus two? " * 14}] for n in range(16)]
    rows = conform([{ID[0]: str(n), "messages": turn, "status": "ok"} for n, turn in enumerate(turns)], SCORED)
    found = generate(ray.data.from_arrow(rows), StudentWork(model, student, Replicas(cpus=1), 0.1, 1)).to_pandas()
    assert list(found["status"]) == ["ok"] * 16, found["reason"].tolist()
    assert max(len(encode_prompt(load_tokenizer(model, student), turn, {})) for turn in turns) > 100


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_restarted_engine_stores_every_answer_and_regenerates_none(ray_local: None, tmp_path: Path) -> None:
    """Ten rows were answered by an engine that died.

    Their answers stay word for word, and only the other rows are generated.
    """
    model, folder = str(tmp_path / "student"), tmp_path / "answers"
    create = CreateModel(hidden_size=64, intermediate_size=128, layers=2, heads=2)
    create_student(create, ["What is two plus two? Be brief."] * 9, model, None, 0)
    student = Student(
        model=model,
        max_model_len=64,
        batch_size=32,
        sampling=Sampling(max_tokens=8),
        engine_kwargs={"max_num_seqs": 16},
    )
    messages = [{"role": "user", "content": "What is two plus two?"}]
    rows = [{"instruction_id": str(n), "messages": messages, "status": "ok"} for n in range(80)]
    rows[7]["messages"] = [{"role": "user", "content": "two " * 90}]
    folder.mkdir()
    keep = functools.partial(AnswerLog, str(folder), pafs.LocalFileSystem(), SCORED, ID, 4)
    keep().write([{**row, "student_response": "said before", "finish_reason": "stop"} for row in rows[30:40]])

    table = ray.data.from_arrow(conform(rows, SCORED))
    replicas = Replicas(cpus=1, gpus=0)
    board: Any = ray.remote(num_cpus=0)(EngineBoard).remote()
    answered = generate(table, StudentWork(model, student, replicas, 0.1, 0, keep=keep, board=board)).take_all()
    facts = ray.get(board.facts.remote())
    # 80 rows without the ten stored ones and the one that is too long.
    assert facts.keys() == {"answers", "answer tokens"} and facts["answers"] == "69"
    assert 0 < int(facts["answer tokens"]) <= 69 * 8
    output = {int(row["instruction_id"]): row for row in answered}
    assert sorted(output) == list(range(80)) and len(answered) == 80
    assert [n for n in range(80) if output[n]["student_response"] == "said before"] == list(range(30, 40))
    assert (output[7]["status"], output[7]["reason"]) == ("filtered", "prompt_too_long")

    parts = [pq.read_table(file) for file in folder.iterdir()]
    kept = {row["instruction_id"]: row for part in parts for row in part.to_pylist()}
    assert len(kept) == sum(map(len, parts)) == 80 and sorted(map(len, parts))[-2] <= 4
    wanted = {row["instruction_id"]: row for row in conform(answered, SCORED).to_pylist()}
    assert kept == wanted
