"""Readers of all file types: files are found and read, and a broken file gives an error in place of a row."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapir_ray.data.files import list_files
from tapir_ray.data.formats import Malformed, parse
from tapir_ray.data.readers import Unreadable, read_raw
from tapir_ray.errors import InputError


def test_files_of_all_types_are_read(tmp_path: Path) -> None:
    rows = [{"instruction": f"i{n}", "output": "o"} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\nnot json\n")
    (tmp_path / "b.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "_manifest.json").write_text("{}")
    files = list_files(str(tmp_path), "seed_data.path")
    assert [Path(file).name for file in files] == ["a.jsonl", "b.json", "c.parquet"]
    places = [place for file in files for place, _ in read_raw(file)]
    assert places[3] == "a.jsonl:4"
    assert len(places) == 10


def test_a_saved_hf_dataset_is_read(tmp_path: Path) -> None:
    import datasets

    folder = str(tmp_path / "saved")
    datasets.Dataset.from_list([{"instruction": "i", "output": "o"}]).save_to_disk(folder)
    assert list_files(folder, "seed_data.path") == [folder]
    assert [row["instruction"] for _, row in read_raw(folder)] == ["i"]


def test_a_saved_hf_dataset_in_another_place_is_refused_with_the_change(tmp_path: Path) -> None:
    """Its `dataset_info.json` was once read as data."""
    import datasets

    folder = tmp_path / "saved"
    datasets.Dataset.from_list([{"instruction": "i", "output": "o"}]).save_to_disk(str(folder))
    with pytest.raises(InputError, match=r"seed_data\.path file://.*save_to_disk.*to_parquet"):
        list_files(f"file://{folder}", "seed_data.path")
    for file in folder.iterdir():
        file.rename(file.with_name(f"_{file.name}"))
    (folder / "a.jsonl").write_text("{}\n")
    assert list_files(f"file://{folder}", "seed_data.path") == [f"file://{folder}/a.jsonl"]


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "/no/such/folder", "elsewhere/alpaca.jsonl", "data/alpaca", "./alpaca", "a/b/c", "a b/c"]
)
def test_a_missing_input_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"filter.evaluation_sets {name}"):
        list_files(name, "filter.evaluation_sets")


@pytest.mark.parametrize("name", ["tatsu-lab/alpaca", "teknium/OpenHermes-2.5"])
def test_a_hub_id_is_passed_to_the_hub(name: str) -> None:
    assert list_files(name, "seed_data.path") == [name]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("object.json", b'{"instruction": "i"}', "object.json"),
        ("cut.json", b'[{"instruction": "i"},\n{"instruc', "cut.json:2"),
        ("empty.json", b"", "empty.json:1"),
        ("no.parquet", b"PAR1 or not", "no.parquet"),
    ],
)
def test_a_broken_file_gives_an_error_in_place_of_a_row(tmp_path: Path, name: str, content: bytes, place: str) -> None:
    (tmp_path / name).write_bytes(content)
    ((found, row),) = read_raw(str(tmp_path / name))
    assert found == place
    assert isinstance(row, Unreadable)
    with pytest.raises(Unreadable):
        parse(row)


def test_a_line_that_is_not_text_affects_no_other_line(tmp_path: Path) -> None:
    lines = [b'{"instruction": "\\ud800"}', b'{"instruction": "\xff"}', b'{"instruction": "\xed\xa0\x80"}', b"[" * 9000]
    good = '\ufeff{"instruction": "\\ud83d\\ude00 \u2028 é", "output": "o"}'.encode()
    (tmp_path / "a.jsonl").write_bytes(b"\r\n".join([good, *lines, good.lstrip(b"\xef\xbb\xbf")]))
    rows = list(read_raw(str(tmp_path / "a.jsonl")))
    assert [place for place, _ in rows] == [f"a.jsonl:{number}" for number in range(1, 7)]
    assert rows[0][1] == rows[5][1] == {"instruction": "😀 \u2028 é", "output": "o"}
    for _, row in rows[1:5]:
        with pytest.raises(Malformed, match="not valid JSON"):
            parse(row)


def test_json_lines_in_a_json_file_are_read_as_lines(tmp_path: Path) -> None:
    """`to_json` writes such files; they were once reported as truncated."""
    rows = [{"instruction": f"i{n}"} for n in range(3)]
    path = tmp_path / "a.json"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    assert list(read_raw(str(path))) == [(f"a.json:{n + 1}", row) for n, row in enumerate(rows)]
    path.write_text("\r\n".join([json.dumps(rows[0]), "{broken", "", json.dumps(rows[2])]))
    first, (place, broken), last = read_raw(str(path))
    assert (first[1], place, last) == (rows[0], "a.json:2", ("a.json:4", rows[2]))
    assert isinstance(broken, ValueError) and not isinstance(broken, Unreadable)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl", '{"instruction": "i"}'.encode("utf-16"), "UTF-16"),
        ("a.json", '[{"instruction": "i"}]'.encode("utf-16"), "UTF-16"),
        ("a.jsonl", b"\x1f\x8b\x08\x00", ".gz"),
        ("a.jsonl", b"PAR1\x00", "Parquet"),
        ("a.json", b"PK\x03\x04", "zip"),
        ("a.jsonl", '{"instruction": "i"}'.encode("utf-32"), "UTF-32"),
        ("a.jsonl", '{"instruction": "i"}'.encode("utf-16-le"), "UTF-16"),
        ("a.json", '[{"instruction": "i"}]'.encode("utf-16-be"), "UTF-16"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.jsonl", b"\n<!DOCTYPE html>\n<html>\n", "web page"),
        ("a.parquet", b"<html><body>404", "web page"),
        ("a.json", b'{"data": [{"instruction": "i"}]}', "keys data"),
        ("a.json", b'{"instruction": ["i", "j"], "output": ["o", "p"]}', "keys instruction, output"),
        ("a.json", b"[" * 100000, "not JSON"),
        ("a.json", b'[{"instruction": "i", "instruction": "j"}]', "'instruction' is given twice"),
        ("a.jsonl.gz", b'{"instruction": "i"}', "cannot be read"),
    ],
)
def test_a_file_of_another_type_is_named_by_its_type(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    ((_, row),) = read_raw(str(tmp_path / name))
    assert isinstance(row, Unreadable) and words in str(row)


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": NaN, "b": [Infinity, -Infinity, 1e999, 1.5]}\n{"a": 1, "a": 2}\n')
    (_, row), (_, twice) = read_raw(str(path))
    assert row == {"a": None, "b": [None, None, None, 1.5]}
    with pytest.raises(Malformed, match="'a' is given twice"):
        parse(twice)
