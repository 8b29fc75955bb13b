"""Contamination: texts of an evaluation set found in training rows, and texts that only look alike."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from tapir_ray.data.contamination_index import ContaminationIndex
from tapir_ray.data.dedup import band_table, find_matches
from tapir_ray.data.ngrams import Boilerplate, Turn
from tapir_ray.data.schemas import MESSAGES, Message, instruction_id
from tapir_ray.transforms.boilerplate import _common, count_block

WORDS = [
    f"{first}{middle}{last}"
    for first in "bdfgklmnprstvz"
    for middle in "aeiou"
    for last in ("ler", "min", "tok", "rus")
]
SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe, and "
    "explain why a question makes no sense instead of giving an answer that is not correct."
)
ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### Response:"
)
HELPFUL = "You are a helpful assistant. Answer the following question: {}"
FORMAT = (
    "{}\n\nThink step by step, and give the answer as a JSON object with the keys reasoning and answer, nothing else."
)
PASSAGE = f"Read this passage. {' '.join(random.Random(-99).choices(WORDS, k=80))}. Now answer: {{}}"
TEMPLATES = {"alpaca": ALPACA, "helpful": HELPFUL, "format": FORMAT, "passage": PASSAGE}


def question(number: int, words: int = 12) -> str:
    """Returns a question that shares no three words with another except by chance."""
    return " ".join(random.Random(number).choices(WORDS, k=words)) + "?"


def asked(text: str, system: str | None = None) -> list[Message]:
    head = [] if system is None else [{"role": "system", "content": system}]
    return [*head, {"role": "user", "content": text}]


def boilerplate_of(rows: list[list[Message]], most: int = 10) -> Boilerplate:
    return Boilerplate(_common(0, 1, most, count_block(_table(rows), 1.0, 13)), 13)


def kinds(items: list[list[Message]], rows: list[list[Message]], training: list[list[Message]]) -> list[str | None]:
    return ContaminationIndex.build(items, 13, 0.7, boilerplate_of(training)).contaminated(rows)


def changed(text: str) -> str:
    """Returns the text with its middle word changed."""
    parts = text.split()
    parts[len(parts) // 2] = "something"
    return " ".join(parts)


def test_shared_system_prompts_are_no_contamination() -> None:
    """4,000 unrelated rows, 400 of them held out; three of four have one of three system prompts."""
    systems = [SYSTEM, question(-1, 16), question(-2, 33)]
    rows = [asked(question(n), systems[n % 4] if n % 4 < 3 else None) for n in range(4000)]
    held, training = rows[:400], rows[400:]
    assert set(kinds(held, training, training)) == {None}
    signatures = band_table(_table(training[:300]), 0.7)
    assert not len(find_matches(signatures, signatures.slice(0, 0), 0.7))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("words", [3, 6, 12, 40])
def test_boilerplate_in_the_user_turn_is_no_contamination(name: str, words: int) -> None:
    rows = [asked(TEMPLATES[name].format(question(n, words))) for n in range(300)]
    held, training = rows[:60], rows[60:]
    assert set(kinds(held, training, training)) == {None}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("words", [9, 14, 20, 60])
def test_an_item_is_found_inside_boilerplate(name: str, words: int) -> None:
    """Covers whole items and items with a changed word, other system prompts, and items with and without the
    boilerplate."""
    template = TEMPLATES[name]
    training = [asked(template.format(question(n))) for n in range(200)]
    item = question(-7, words)
    for held in ([asked(item)], [asked(template.format(item))]):
        copies = [template.format(item), template.format(changed(item))]
        found = kinds(held, [asked(copies[0]), asked(copies[0], SYSTEM), asked(copies[1])], training)
        if held == [asked(item)] and words < 13:
            continue  # Items shorter than an n-gram are not searched for inside other texts.
        assert found[0] is not None and found[1] is not None
        if words >= 14:
            assert found[2] is not None, "one word of fourteen is changed"


@pytest.mark.parametrize("copies", [1, 5, 40])
def test_an_item_copied_many_times_is_no_boilerplate(copies: int) -> None:
    """All n-grams of a repeated item are common. Still none of them counts as a frame around other texts."""
    item = question(-3, 30)
    others = [asked(question(n)) for n in range(100)]
    copied = [asked(item, f"You are {question(100 + n, 4)}") for n in range(copies)]
    same = [asked(changed(item), f"You are {question(200 + n, 4)}") for n in range(copies)]
    inside = [asked(f"{question(300 + n, 5)} {item} {question(400 + n, 5)}") for n in range(copies)]
    rows = [*copied, *same, *inside]
    assert None not in kinds([asked(item)], rows, [*others, *rows])
    assert set(kinds([asked(item)], others, [*others, *rows])) == {None}


def test_equal_turns_under_another_system_prompt_are_a_near_duplicate() -> None:
    """`exact` needs the whole conversation to be equal."""
    item = asked(question(1))
    assert kinds([item], [item, asked(question(1), SYSTEM)], []) == ["exact", "near_duplicate"]


def test_the_system_prompt_of_an_item_is_not_searched_for() -> None:
    assert kinds([asked(question(1), SYSTEM)], [asked(question(2), SYSTEM), asked(SYSTEM)], []) == [None, None]


CASES = {
    "zh": ("请根据下面的材料，分析这家公司在过去三年里利润下降的主要原因，并提出两条可行的改进建议。", "利润", "收入"),
    "ja": (
        "次の会議の議事録を読んで、決まったことと残っている課題をそれぞれ三つずつ箇条書きにしてください。",
        "課題",
        "問題",
    ),
    "th": ("โปรดอธิบายสาเหตุหลักที่ทำให้ราคาข้าวในประเทศไทยเพิ่มขึ้นในช่วงสามปีที่ผ่านมาพร้อมยกตัวอย่างสองข้อ", "สามปี", "ห้าปี"),
    "ko": (
        "지난 삼 년 동안 이 회사의 이익이 줄어든 주된 원인을 분석하고 실행할 수 있는 방안 두 가지를 제안해 주세요.",
        "이익",
        "매출",
    ),
    "mixed": (
        "请用 Python 写一个 function，读取 CSV 文件，然后计算每一列的平均值，并把结果保存为 JSON。",
        "平均值",
        "最大值",
    ),
    "en": (
        "Explain the main reasons why the price of rice in Thailand rose over the last three years, and give examples.",
        "rice",
        "sugar",
    ),
}


@pytest.mark.parametrize("language", CASES)
def test_one_changed_word_is_found_in_any_script(language: str) -> None:
    text, old, new = CASES[language]
    assert old in text
    near, inside = text.replace(old, new), f"{CASES['ja'][0] if language != 'ja' else CASES['zh'][0]} {text}"
    others = [asked(one) for name, (one, _, _) in CASES.items() if name != language]
    found = kinds([asked(text)], [asked(near), asked(inside), asked(text, SYSTEM)], [])
    assert found[0] in ("near_duplicate", "ngram") and found[1:] == ["ngram", "near_duplicate"]
    assert set(kinds([asked(text)], others, [])) == {None}
    wide = text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)})
    assert kinds([asked(text)], [asked(wide)], [])[0] in ("exact", "near_duplicate")


@pytest.mark.parametrize(
    ("request_", "item", "row"),
    [
        (
            "次の文章を要約してください。",
            "猫は窓辺で眠り、午後の光が静かに床を照らしていた。",
            "株価は三日続けて下がり、投資家は不安だ。",
        ),
        ("请总结以下文章的主要内容：", "春天来了，河边的柳树发了芽。", "公司第三季度的营业收入增长了百分之五。"),
    ],
)
def test_a_common_request_is_no_contamination_in_a_script_without_spaces(request_: str, item: str, row: str) -> None:
    """13 characters of such a script are fewer than 13 words."""
    assert kinds([asked(request_ + item)], [asked(request_ + row)], []) == [None]


def test_the_shared_text_is_reported() -> None:
    index = ContaminationIndex.build([asked(question(1, 20)), asked(question(2, 40))], 13, 0.7)
    inside = f"{question(3, 30)} {question(2, 40)} {question(4, 30)}"
    (found,) = index.find([asked(inside)])
    assert found is not None
    assert (found.kind, found.item) == ("ngram", 1)
    assert found.shared == question(2, 40).rstrip("?")[:300]


def _table(rows: list[list[Message]]) -> pa.Table:
    return pa.table(
        {
            "order": pa.array([f"{n:05d}" for n in range(len(rows))], pa.string()),
            "instruction_id": pa.array([instruction_id(one) for one in rows], pa.string()),
            "messages": pa.array(rows, MESSAGES),
            "status": pa.array(["ok"] * len(rows), pa.string()),
        }
    )


def near(rows: list[list[Message]], boilerplate: Boilerplate) -> dict[int, int]:
    """Returns {row: the first row that it resembles}."""
    entries = band_table(_table(rows), 0.7, boilerplate)
    found = find_matches(entries, entries.slice(0, 0), 0.7).to_pylist()
    return {int(one["order"]): int(one["first"]) for one in found}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("words", [2, 5, 12])
def test_unrelated_questions_in_one_template_are_no_near_duplicates(name: str, words: int) -> None:
    rows = [asked(TEMPLATES[name].format(question(n, words))) for n in range(150)]
    again = [asked(TEMPLATES[name].format(question(7, 12))), asked(TEMPLATES[name].format(question(7, 12) + " please"))]
    assert near([*rows, *again], boilerplate_of(rows)).keys() <= {150, 151}
    assert near([*rows, *again], boilerplate_of(rows))[151] in (7, 150)


def test_many_copies_with_one_word_changed_are_near_duplicates() -> None:
    """A text that many rows repeat does not count as a template.

    A few copies, changed near their first or last word, are not found.
    """
    parts = question(-4, 30).split()
    rows = [asked(" ".join([*parts[:at], f"word{n}", *parts[at + 1 :]])) for n in range(4) for at in range(30)]
    left = len(rows) - len(near(rows, boilerplate_of(rows)))
    assert left <= 1 + 6 * 4
    numbered = [asked(f"{question(-4, 30)} {n}") for n in range(50)]
    assert len(near(numbered, boilerplate_of(numbered))) == 49


def test_boilerplate_only_removes_duplicates() -> None:
    """Rows with similar parts of their own inside different templates are no near-duplicates."""
    rows = [asked(PASSAGE.format(question(n))) for n in range(50)] + [
        asked(ALPACA.format(question(n))) for n in range(50)
    ]
    assert near(rows, boilerplate_of(rows)) == {}


def test_the_parts_outside_the_boilerplate_are_found() -> None:
    rows = [asked(PASSAGE.format(question(n))) for n in range(20)]
    boilerplate = boilerplate_of(rows)

    def own(text: str) -> list[str] | None:
        turn = Turn.of(text)
        found = boilerplate.own([turn])
        return None if found is None else [unit for unit, mine in zip(turn.units, found[0], strict=True) if mine]

    assert own(PASSAGE.format("Why not?")) == ["why", "not"]
    assert own(PASSAGE.format("Why?")) is None, "one word is too few"
    assert own(PASSAGE.format("")) is None, "nothing is left, so the whole text counts"
    assert own(changed(PASSAGE.format(""))) is None, "the word is part of another text"
    assert own("Why is the sky blue at noon?") is None
    assert boilerplate_of(rows[:10]).common.tolist() == [], "ten rows do not exceed ten"


def test_boilerplate_counts_do_not_depend_on_blocks() -> None:
    rows = [asked(ALPACA.format(question(n))) for n in range(40)]
    table = _table(rows)
    blocks = [count_block(table.slice(at, 7), 1.0, 13) for at in range(0, 40, 7)]
    whole = boilerplate_of(rows).common
    ranges = [_common(number, 6, 10, *blocks) for number in range(6)]
    assert np.concatenate(ranges).tolist() == whole.tolist() and len(whole)
    assert len(count_block(table, 0.0, 13)) == 0


@pytest.mark.parametrize("language", CASES)
def test_one_changed_word_is_found_inside_a_longer_text(language: str) -> None:
    """The changed word is in the middle of an item of about 20 words, so no whole n-gram of it is left."""
    text, old, new = CASES[language]
    inside = f"{question(1, 30)}\n\n{text.replace(old, new)}\n\n{question(2, 30)}"
    assert kinds([asked(text)], [asked(inside), asked(inside, SYSTEM)], []) == ["ngram", "ngram"]
    assert kinds([asked(question(3, 13))], [asked(f"{question(1, 30)} {changed(question(3, 13))} now")], []) == [
        "ngram"
    ]
    apart = " ".join(question(n, 20) for n in range(10))
    assert kinds([asked(text)], [asked(apart)], []) == [None]
