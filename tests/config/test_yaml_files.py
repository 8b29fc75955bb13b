"""YAML values are read as they look, or are refused with one sentence that names the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tapir_ray.config import load
from tapir_ray.config.yaml_files import Dumper, read_yaml
from tapir_ray.errors import InputError

BASE = "name: y\nseed_data: {path: a.jsonl}\nstudent: {model: m}\n"
LATIN_1 = "# réglages de l'essai\nname: y\n".encode("latin-1")
LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{f'*{before},' * 9}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
"""A few lines of aliases that expand to millions of values."""


def value_of(text: str) -> Any:
    return read_yaml(text, "c.yaml").value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-2", 0.01), ("5E3", 5000.0), ("+1.5e+3", 1500.0), (".5", 0.5), ("5.", 5.0), ("1_000", 1000), ("-7", -7),
        ("0o17", 15), ("0x1F", 31), ("0", 0), ("0.5", 0.5), ("1_0.5", 10.5), ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"), ("1,5", "1,5"), ("'1e-2'", "1e-2"), ("!!str 1e5", "1e5"), ("!!float 3", 3.0), ("on", True),
        ("No", False), ("~", None), ("127.0.0.1:8000", "127.0.0.1:8000"), ("=", "="), ("${HOME}/a", "${HOME}/a"),
    ],
)  # fmt: skip
def test_a_plain_value_is_read_as_written(written: str, value: Any) -> None:
    found = value_of(f"a: {written}")["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3", "c.yaml, line 3: the key a is already on line 1"),
        ("a:\n  b: 1\n  c: {d: 1, d: 2}", "line 3: the key a.c.d is already on line 3"),
        ("a: [{b: 1,\n b: 1}]", "the key a.0.b"),
        ("a: 1\n'a': 2", "the key a is already"),
        ("a: 0777", "octal in YAML"),
        ("a: 12:30", "base-60"),
        ("a: .inf", "not a finite number"),
        ("a: -.INF", "not a finite number"),
        ("a: .nan", "not a finite number"),
        ("a: 1e999", "too large"),
        ("a: " + "9" * 5000, "cannot be read as a number"),
        ("a: &x [*x]", "the anchor is used inside itself"),
        ("a: &x {<<: *x}", "the anchor is used inside itself"),
        ("a: {<<: 3}", "<< takes a mapping"),
        ("? [a, b]\n: 1", "a key must be text"),
        ("a: !!binary aGk=", "!!binary"),
        ("a: !!set {b, c}", "!!set"),
        ("a: !!bool x", "!!bool"),
        ("a: !!timestamp x", "!!timestamp"),
        ("a: !!python/object/apply:os.system [ls]", "python/object"),
        ("a: !!int 1.5x", "!!int"),
        ("a: 1\n---\na: 2", "but found another document (line 2)"),
        ("a:\n\tb: 1", "line 2"),
        ("a: \x01", "not valid YAML"),
        ("[" * 3000, "nested too deeply"),
        (LAUGHS, "more than 200000 values"),
        ("seed_data: {path: ${HOME}/a.jsonl}", "line 1"),
    ],
)  # fmt: skip
def test_an_ambiguous_value_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        value_of(text)
    assert str(error.value).startswith("c.yaml") and sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_keys_are_text_and_aliases_are_copies() -> None:
    assert value_of("{yes: 1, 12: 2, 1e5: 3, null: 4, 2024-01-01: 5, 0777: 6}") == {
        "yes": 1, "12": 2, "1e5": 3, "null": 4, "2024-01-01": 5, "0777": 6,
    }  # fmt: skip
    merged = value_of("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: {<<: [{p: 7}, *x]}\nd: *x")
    assert merged["b"] == {"p": 1, "q": 3} and merged["c"] == {"p": 7, "q": 2}
    merged["d"]["p"] = 9
    assert merged["a"]["p"] == 1


def test_text_that_looks_like_a_number_is_dumped_in_quotes() -> None:
    content = {name: name for name in ("1e-2", "0o17", "12:30", "0777", "yes", "2024-01-01", ".inf", "", "1e5", "a: b")}
    shared = {"k": [1]}
    content = {**content, "one": shared, "two": shared}
    text = yaml.dump(content, Dumper=Dumper, sort_keys=False)
    assert "&" not in text and value_of(text) == content


@pytest.mark.parametrize("data", [LATIN_1, "name: y\n".encode("utf-16"), b"name: \xff\n"])
def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "latin1.yaml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"latin1\.yaml is not UTF-8 text \(line 1\): save it as UTF-8"):
        load(path)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode())
    assert load(path).name == "y"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("teacher: {model: a}\nteacher: {model: b}\n", "line 5: the key teacher is already on line 4"),
        ("train: {lora: }\n", "the section train.lora is empty"),
        ("simulator:\n", "the section simulator is empty"),
        ("teacher:\n", "the section teacher is empty"),
        ("teacher: null\n", "teacher: this is a section"),
        ("curriculum: {rounds: on}\n", "curriculum.rounds: this must be a number"),
        ("curriculum: {weights: {Math: yes}}\n", "curriculum.weights: this must be a number"),
        ("holdout: {stratify_by: [on]}\n", "put it in quotes"),
        ("judge: {model: 1e5}\n", "judge.model: Input should be a valid string (it is 100000.0): put it in quotes"),
        ("train: {learning_rate: '1e-2x'}\n", "train.learning_rate"),
        ("1: 2\n", "1: unknown key"),
        ("teacher: {price: {tiers: [{abov: 1}]}}\n", "teacher.price.tiers.0.abov: unknown key; did you mean above?"),
        ("teacher: {1: 2}\n", "teacher.1: unknown key"),
        ("train: {learning_rate: 'inf'}\n", "finite"),
        ("score: {max_rows: [" + "1, " * 500 + "]}\n", "score.max_rows"),
    ],
)
def test_an_ambiguous_config_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(BASE + text)
    with pytest.raises(InputError) as error:
        load(path)
    assert sentence in str(error.value) and len(str(error.value)) < 1000 and "\n" not in str(error.value)


def test_numbers_of_a_config_are_parsed(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        BASE + "train: {learning_rate: 1e-2}\nteacher: {extra_body: {min_p: 1e-2}}\nscore: {max_rows: 1_000}\n"
    )
    config = load(path)
    assert config.train.learning_rate == 0.01
    assert config.teacher.extra_body == {"min_p": 0.01}
    assert config.score.max_rows == 1000
