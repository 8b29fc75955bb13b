"""Files of every kind are found and read; what is broken says so where it is."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapir_ray.conversations import Malformed, parse
from tapir_ray.errors import InputError
from tapir_ray.sources import Unreadable, list_files, read_raw


def test_files_of_all_kinds(tmp_path: Path) -> None:
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


def test_saved_hf_dataset(tmp_path: Path) -> None:
    import datasets

    folder = str(tmp_path / "saved")
    datasets.Dataset.from_list([{"instruction": "i", "output": "o"}]).save_to_disk(folder)
    assert list_files(folder, "seed_data.path") == [folder]
    assert [row["instruction"] for _, row in read_raw(folder)] == ["i"]


def test_a_saved_hf_dataset_elsewhere_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Its `dataset_info.json` was taken for the data."""
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
def test_missing_input_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"filter.evaluation_sets {name}"):
        list_files(name, "filter.evaluation_sets")


@pytest.mark.parametrize("name", ["tatsu-lab/alpaca", "teknium/OpenHermes-2.5"])
def test_a_hub_id_is_left_to_the_hub(name: str) -> None:
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
def test_a_broken_file_says_so_in_place_of_a_row(tmp_path: Path, name: str, content: bytes, place: str) -> None:
    (tmp_path / name).write_bytes(content)
    ((found, row),) = read_raw(str(tmp_path / name))
    assert found == place
    assert isinstance(row, Unreadable)
    with pytest.raises(Unreadable):
        parse(row)


def test_a_line_that_is_no_text_spoils_no_other(tmp_path: Path) -> None:
    lines = [b'{"instruction": "\\ud800"}', b'{"instruction": "\xff"}', b'{"instruction": "\xed\xa0\x80"}', b"[" * 9000]
    good = '\ufeff{"instruction": "\\ud83d\\ude00 \u2028 é", "output": "o"}'.encode()
    (tmp_path / "a.jsonl").write_bytes(b"\r\n".join([good, *lines, good.lstrip(b"\xef\xbb\xbf")]))
    rows = list(read_raw(str(tmp_path / "a.jsonl")))
    assert [place for place, _ in rows] == [f"a.jsonl:{number}" for number in range(1, 7)]
    assert rows[0][1] == rows[5][1] == {"instruction": "😀 \u2028 é", "output": "o"}
    for _, row in rows[1:5]:
        with pytest.raises(Malformed, match="not valid JSON"):
            parse(row)
