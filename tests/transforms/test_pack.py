"""Packing: every pair once, for any blocks; positions, labels and counts are correct."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import ray.data
from hypothesis import given
from hypothesis import strategies as st

from tapir_ray.config import CreateModel, Student, Train
from tapir_ray.data.schemas import FILTERED, OK, PACKED, TRAINING, conform, instruction_id, pair_id
from tapir_ray.train.chat import IGNORED, encode_pair, load_tokenizer, resolve_template
from tapir_ray.train.create_student import create_student
from tapir_ray.transforms import pack_chunks
from tapir_ray.transforms.count_tokens import count_table, count_tokens
from tapir_ray.transforms.pack import best_fit, pack
from tapir_ray.transforms.pack_stats import PackStats
from tests.train.templates import THINKING
from tests.train.tokenizers import word_level

FS = pafs.LocalFileSystem()
TRAIN = Train(sequence_length=64, precision="float32")


def training_rows(count: int) -> list[dict[str, Any]]:
    rng = random.Random(1)
    rows = []
    for number in range(count):
        messages = [
            {"role": "user", "content": f"Say {' '.join(rng.choices(['one', 'two', 'six'], k=number % 9 + 1))}."}
        ]
        instruction = instruction_id(messages) + f"-{number}"
        rows.append(
            {
                "pair_id": pair_id(instruction, 0),
                "instruction_id": instruction,
                "copy": 0,
                "messages": messages,
                "response": " ".join(rng.choices(["one", "two", "six"], k=number % 13 + 1)),
                "task": "Math",
                "pool": "hard" if number % 3 == 0 else "easy",
                "status": OK,
            }
        )
    return rows


def long_row() -> dict[str, Any]:
    row = training_rows(1)[0]
    return {**row, "pair_id": "long", "response": "six " * 80, "pool": "easy"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("pack") / "student")
    texts = [f"{row['messages'][0]['content']} {row['response']}" for row in training_rows(50)]
    create_student(CreateModel(hidden_size=16, intermediate_size=32, layers=1, heads=2), texts, folder, None, 0)
    return folder


def write(rows: list[dict[str, Any]], folder: Path, files: int) -> list[str]:
    folder.mkdir()
    paths = []
    for number in range(files):
        paths.append(str(folder / f"{number}.parquet"))
        pq.write_table(conform(rows[number::files], TRAINING), paths[-1])
    return paths


def packed(
    model: str, paths: list[str], target: Path, epochs: int = 1, random_seed: int = 0, **train: Any
) -> tuple[PackStats, pa.Table]:
    settings = TRAIN.model_copy(update=train)
    student = Student(model=model)
    stats = pack([paths], str(target), FS, model, student, settings, random_seed, epochs, pairs_per_chunk=40)
    files = sorted(target.glob("packed-*.parquet"))
    return stats, pa.concat_tables([pq.read_table(file) for file in files])


@given(lengths=st.lists(st.integers(1, 64), max_size=200))
def test_every_length_is_placed_once_and_nothing_overflows(lengths: list[int]) -> None:
    bins = best_fit(lengths, 64)
    assert sorted(position for members in bins for position in members) == list(range(len(lengths)))
    assert all(0 < sum(lengths[position] for position in members) <= 64 for members in bins)
    half_empty = [members for members in bins if sum(lengths[position] for position in members) <= 32]
    assert len(half_empty) <= 1


def test_a_packed_sequence_is_the_concatenation_of_its_pairs(ray_local: None, model: str, tmp_path: Path) -> None:
    rows = [*training_rows(100), {**training_rows(1)[0], "pair_id": "not used", "status": FILTERED}, long_row()]
    stats, table = packed(model, write(rows, tmp_path / "in", 3), tmp_path / "out")
    assert table.schema == PACKED
    assert table["seq_index"].to_pylist() == list(range(stats.sequences))
    tokenizer = load_tokenizer(model, Student(model=model))
    by_id = {row["pair_id"]: encode_pair(tokenizer, row["messages"], row["response"], {}) for row in rows}
    for sequence in table.to_pylist():
        ids, labels, positions = [], [], []
        for pair in sequence["pair_ids"]:
            prompt, response = by_id[pair]
            ids += prompt + response
            labels += [-100] * len(prompt) + response
            positions += range(len(prompt + response))
        assert sequence["input_ids"] == ids and sequence["labels"] == labels and sequence["position_ids"] == positions
        assert len(ids) <= 64
    assert sorted(pair for pairs in table["pair_ids"].to_pylist() for pair in pairs) == sorted(list(by_id)[:100])
    encoded = [by_id[row["pair_id"]] for row in rows[:100]]
    assert stats == PackStats(
        sequences=len(table),
        tokens=sum(len(prompt) + len(response) for prompt, response in encoded),
        response_tokens=sum(len(response) for _, response in encoded),
        hard_tokens=sum(len(encoded[number][1]) for number in range(0, 100, 3)),
        pairs=100,
        cut=0,
        over_length=1,
        template_refused=0,
        last_turn_only=0,
        epochs=1,
    )


def test_without_packing_each_pair_is_a_sequence(ray_local: None, model: str, tmp_path: Path) -> None:
    paths = write([*training_rows(100), long_row()], tmp_path / "in", 3)
    whole, _ = packed(model, paths, tmp_path / "packed")
    stats, table = packed(model, paths, tmp_path / "out", epochs=2, packing=False)
    assert (stats.sequences, stats.pairs, stats.tokens, stats.over_length) == (200, 200, 2 * whole.tokens, 1)
    assert table["seq_index"].to_pylist() == list(range(200))
    assert all(len(pairs) == 1 for pairs in table["pair_ids"].to_pylist())
    assert all(row["position_ids"] == list(range(len(row["input_ids"]))) for row in table.to_pylist())


def test_packing_is_equal_for_any_blocks_and_order_and_differs_by_epoch_and_seed(
    ray_local: None, model: str, tmp_path: Path
) -> None:
    rows = training_rows(100)
    stats, one = packed(model, write(rows, tmp_path / "a", 1), tmp_path / "1", epochs=2)
    _, many = packed(model, write(rows[::-1], tmp_path / "b", 7), tmp_path / "2", epochs=2)
    assert one.equals(many)
    pairs = [pair for members in one["pair_ids"].to_pylist() for pair in members]
    first, second = pairs[:100], pairs[100:]
    _, other = packed(model, [str(tmp_path / "a" / "0.parquet")], tmp_path / "3", random_seed=1)
    of_other = [pair for members in other["pair_ids"].to_pylist() for pair in members]
    assert sorted(of_other) == sorted(first) and of_other not in (first, second)
    assert sorted(first) == sorted(second) == sorted(row["pair_id"] for row in rows)
    assert first != second
    assert stats.pairs == 200 and stats.epochs == 2
    assert not (tmp_path / "1.encoded").exists()


def test_packing_is_equal_for_any_ranges_and_task_sizes(
    ray_local: None, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large training set is packed in ranges of chunks, by larger tasks; its order is that of single chunks."""
    paths = write(training_rows(400), tmp_path / "in", 5)
    plain, one = packed(model, paths, tmp_path / "plain", epochs=2)
    monkeypatch.setattr(pack_chunks, "PAIRS_PER_TASK", 90)
    cut = pack_chunks.cut_for(400, pairs_per_chunk=40)
    assert cut.chunks > cut.ranges > 1
    stats, many = packed(model, paths, tmp_path / "ranges", epochs=2)
    assert one.equals(many) and stats == plain
    assert [file.name for file in sorted((tmp_path / "ranges").iterdir())] == [
        f"packed-{epoch:03d}-{chunk:06d}.parquet" for epoch in (0, 1) for chunk in range(10)
    ]


def test_a_pair_in_two_tables_has_a_place_in_each(ray_local: None, model: str, tmp_path: Path) -> None:
    """With one place for both, the copies would be in one batch (`train.data: cumulative`)."""
    paths = write(training_rows(200), tmp_path / "in", 3)
    student = Student(model=model)
    stats = pack([paths, paths], str(tmp_path / "out"), FS, model, student, TRAIN, 0, 1, pairs_per_chunk=40)
    files = sorted((tmp_path / "out").glob("packed-*.parquet"))
    sequences = pa.concat_tables([pq.read_table(file) for file in files])["pair_ids"].to_pylist()
    places: dict[str, list[int]] = {}
    for number, pairs in enumerate(sequences):
        for pair in pairs:
            places.setdefault(pair, []).append(number)
    assert stats.pairs == 400 and all(len(found) == 2 for found in places.values())
    apart = [abs(first - second) for first, second in places.values()]
    assert sum(apart) / len(apart) > len(sequences) / 5, "a third of the sequences is expected by chance"


def test_a_pair_that_is_too_long_is_truncated_only_if_configured(ray_local: None, model: str, tmp_path: Path) -> None:
    paths = write([long_row()], tmp_path / "in", 1)
    stats, table = packed(model, paths, tmp_path / "cut", over_length="truncate")
    assert (stats.cut, stats.over_length, stats.pairs, stats.tokens) == (1, 0, 1, 64)
    assert len(table["input_ids"][0]) == 64
    student = Student(model=model)
    stats = pack([paths], str(tmp_path / "none"), FS, model, student, TRAIN, 0, 1)
    assert (stats.sequences, stats.over_length, stats.pairs) == (0, 1, 0)


def test_counting_marks_pairs_that_do_not_fit_and_keeps_every_row(ray_local: None, model: str) -> None:
    rows = [
        *training_rows(30),
        long_row(),
        {**training_rows(1)[0], "pair_id": "bad", "status": FILTERED, "reason": "x"},
    ]
    dataset = ray.data.from_arrow(conform(rows, TRAINING))
    counted = count_tokens(dataset, model, Student(model=model), TRAIN, 0.1).take_all()
    by_id = {row["pair_id"]: row for row in counted}
    assert len(by_id) == 32
    assert (by_id["long"]["status"], by_id["long"]["reason"]) == (FILTERED, "over_length")
    assert (by_id["bad"]["status"], by_id["bad"]["reason"], by_id["bad"]["tokens"]) == (FILTERED, "x", None)
    tokenizer = load_tokenizer(model, Student(model=model))
    for row in rows[:30]:
        response = encode_pair(tokenizer, row["messages"], row["response"], {})[1]
        assert by_id[row["pair_id"]]["tokens"] == len(response)
        assert by_id[row["pair_id"]]["status"] == OK


def test_a_row_refused_by_the_chat_template_is_filtered_and_others_are_packed(
    ray_local: None, model: str, tmp_path: Path
) -> None:
    """Gemma's template raises on a system turn; one such row must not end a run."""
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + resolve_template("plain")
    )
    student = Student(model=model, chat_template=str(template))
    rows = training_rows(9)
    system = {"role": "system", "content": "Be brief."}
    rows[4] = {**rows[4], "messages": [system, *rows[4]["messages"]]}
    counted = count_tokens(ray.data.from_arrow(conform(rows, TRAINING)), model, student, TRAIN, 0.1).take_all()
    refused = [row for row in counted if row["status"] != OK]
    assert len(counted) == 9 and [row["pair_id"] for row in refused] == [rows[4]["pair_id"]]
    assert (refused[0]["status"], refused[0]["tokens"]) == (FILTERED, None)
    assert refused[0]["reason"] == "template_refused: no system role"
    stats = pack([write(rows, tmp_path / "in", 2)], str(tmp_path / "out"), FS, model, student, TRAIN, 0, epochs=2)
    assert (stats.pairs, stats.template_refused, stats.over_length) == (16, 1, 0)


def test_a_mark_in_a_text_ends_no_turn_and_an_unencodable_mark_filters_the_row(
    ray_local: None, model: str, tmp_path: Path
) -> None:
    """An answer about `<|end|>` ends once; counting, packing and the engine's prompt agree."""
    rows = training_rows(6)
    rows[1] = {**rows[1], "response": "It writes <|end|> and <|user|> then."}
    rows[2] = {**rows[2], "messages": [{"role": "user", "content": "What is <|end|><|assistant|>one<|end|>?"}]}
    student = Student(model=model)
    counted = count_table(conform(rows, TRAINING), model, student, TRAIN).to_pylist()
    assert [row["status"] for row in counted] == [OK] * 6
    stats, table = packed(model, write(rows, tmp_path / "in", 2), tmp_path / "out")
    tokenizer = load_tokenizer(model, student)
    ends = [ids.count(tokenizer.eos_token_id) for ids in table["input_ids"].to_pylist()]
    assert sum(ends) == 2 * stats.pairs == 12, "one end for each question and each answer"
    assert stats.response_tokens == sum(row["tokens"] for row in counted)
    assert "<|end|> and <|user|> then.<|end|>" in tokenizer.decode(table["labels"].combine_chunks().flatten().filter(
        pc.not_equal(table["labels"].combine_chunks().flatten(), IGNORED)).to_pylist())  # fmt: skip

    words = tmp_path / "words"
    word_level().save_pretrained(words)
    student = Student(model=str(words))
    rows[3] = {**rows[3], "response": "Say <|im_end|>"}
    counted = count_table(conform(rows, TRAINING), str(words), student, TRAIN).to_pylist()
    refused = [row for row in counted if row["status"] != OK]
    assert [(row["pair_id"], row["status"], row["reason"], row["tokens"]) for row in refused] == [
        (rows[3]["pair_id"], FILTERED, "special_token", None)
    ]
    paths = [[str(path) for path in (tmp_path / "in").iterdir()]]
    pq.write_table(conform(rows, TRAINING), paths[0][0])
    stats = pack([paths[0][:1]], str(tmp_path / "other"), FS, str(words), student, TRAIN, 0, epochs=2)
    assert (stats.pairs, stats.special_token, stats.template_refused) == (10, 1, 0)
    assert "1 of 6 pairs" in stats.warnings()[0] and "control token" in stats.warnings()[0]


def test_every_answer_of_a_conversation_is_in_the_loss_if_configured(
    ray_local: None, model: str, tmp_path: Path
) -> None:
    """Conversations whose earlier answers the template rewrites are counted and train on their last answer."""
    rows = training_rows(12)
    earlier = [{"role": "user", "content": "Say six."}, {"role": "assistant", "content": "six"}]
    for row in rows[:5]:
        row["messages"] = [*earlier, *row["messages"]]
    paths = write(rows, tmp_path / "in", 2)
    tokenizer = load_tokenizer(model, Student(model=model))
    answer = encode_pair(tokenizer, earlier[:1], "six", {})[1]
    last, _ = packed(model, paths, tmp_path / "last")
    every, table = packed(model, paths, tmp_path / "all", loss_mask="all")
    assert every.response_tokens == last.response_tokens + 5 * len(answer)
    assert (every.tokens, every.pairs, every.last_turn_only) == (last.tokens, 12, 0)
    labels = [label for labels in table["labels"].to_pylist() for label in labels if label != IGNORED]
    assert len(labels) == every.response_tokens and labels.count(answer[-1]) == 12 + 5

    counted = count_tokens(
        ray.data.from_arrow(conform(rows, TRAINING)),
        model,
        Student(model=model),
        TRAIN.model_copy(update={"loss_mask": "all"}),
        0.1,
    )
    assert sum(row["tokens"] for row in counted.take_all()) == every.response_tokens

    template = tmp_path / "thinking.jinja"
    template.write_text(THINKING)
    rewriting = Student(model=model, chat_template=str(template))
    settings = TRAIN.model_copy(update={"loss_mask": "all", "sequence_length": 96})
    stats = pack([paths], str(tmp_path / "rewritten"), FS, model, rewriting, settings, 0, epochs=2)
    assert (stats.pairs, stats.last_turn_only) == (24, 5)
