"""Files of a folder or dataset: no file or split is skipped silently, and no test split is trained on."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapir_ray.config import SeedData
from tapir_ray.data.file_names import kind_of, split_of
from tapir_ray.data.files import find, find_seed, list_files
from tapir_ray.data.readers import Unreadable, read_raw
from tapir_ray.errors import InputError

ROW = {"instruction": "i", "output": "o"}
LINE = json.dumps(ROW) + "\n"


def folder_of(tmp_path: Path, *names: str, text: str = LINE) -> str:
    for name in names:
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(tmp_path / "data")


def names(path: str, files: list[str]) -> list[str]:
    return [str(Path(file).relative_to(path)) for file in files]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "lines"), ("A.JSONL", "lines"), ("a.ndjson", "lines"), ("a.json", "list"), ("a.Json", "list"),
        ("a.parquet", "parquet"), ("a.jsonl.gz", "lines"), ("a.JSON.GZ", "list"), ("a.ndjson.zst", "lines"),
        ("a.jsonl.bz2", "lines"), ("v1.2.jsonl", "lines"), ("a.parquet.gz", None), ("a.gz", None), ("a.csv", None),
        ("a.csv.gz", None), ("a.jsonl.xz", None), ("a.zip", None), ("jsonl", None), ("a.txt", None),
    ],
)  # fmt: skip
def test_supported_files_are_listed(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"), ("test.jsonl", "test"), ("Test.JSON", "test"), ("validation.parquet", "validation"),
        ("dev.jsonl.gz", "validation"), ("val.jsonl", "validation"), ("alpaca_eval.json", "test"),
        ("gsm8k-test.jsonl", "test"), ("data/test-00000-of-00001.parquet", "test"),
        ("data/train-00000-of-00012.parquet", "train"), ("train_sft-00000-of-00002.parquet", "train_sft"),
        ("test_sft-00000-of-00002-0123456789abcdef.parquet", "test_sft"), ("validation/a.jsonl", "validation"),
        ("train/test.jsonl", "test"), ("test/train/a.jsonl", "test"), ("train_0.jsonl", "train"),
        ("test2.jsonl", "test"), ("data/part-00000-of-00003.parquet", None), ("latest.jsonl", None),
        ("contest.jsonl", None), ("rows.jsonl", None),
        ("evaluation_data/rows.jsonl", "evaluation_data"), ("training/rows.jsonl", "train"), ("a/b/c.jsonl", None),
        ("my-test-data.jsonl", "test"), ("alpaca_test_set.jsonl", "test"), ("gsm8kTest.jsonl", "test"),
        ("gsm8kTrain.jsonl", "train"), ("testset.jsonl", "test"), ("trainset.jsonl", "train"),
        ("squad.test.jsonl", "test"), ("squad.validation.v2.json.gz", "validation"), ("hold_out.jsonl", "test"),
        ("hold-out.jsonl", "test"), ("dev-v1.1.json", "validation"), ("my-train-rows.jsonl", None),
        ("attestData.jsonl", None), ("developers.jsonl", None), ("GSM8KTEST.jsonl", None),
    ],
)  # fmt: skip
def test_a_name_tells_its_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_test_splits_are_left_out_and_named(tmp_path: Path) -> None:
    path = folder_of(
        tmp_path, "train.jsonl", "test.jsonl", "dev/a.jsonl", "more/extra.jsonl", "data/test-00000-of-00001.parquet"
    )
    found = find(path, "seed_data.path")
    assert names(path, found.files) == ["more/extra.jsonl", "train.jsonl"]
    (note,) = found.left_out
    assert note.startswith("3 files are left out (splits test, validation)")
    assert all(name in note for name in ("test.jsonl", "dev/a.jsonl", "data/test-00000-of-00001.parquet"))


@pytest.mark.parametrize(
    "only", [("test.jsonl",), ("validation/a.jsonl", "dev.jsonl"), ("train_sft/a.jsonl", "test/a.jsonl")]
)
def test_a_folder_without_a_train_split_is_refused(tmp_path: Path, only: tuple[str, ...]) -> None:
    path = folder_of(tmp_path, *only)
    with pytest.raises(InputError, match=r"has the splits .*none is train; name one in seed_data\.split"):
        find(path, "seed_data.path")


def test_a_given_split_is_listed(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "train.jsonl", "test.jsonl", "train_sft/a.jsonl", "rows.jsonl")
    for split, files in (("test", ["test.jsonl"]), ("train", ["train.jsonl"]), ("train_sft", ["train_sft/a.jsonl"])):
        found = find(path, "seed_data.path", split=split)
        assert names(path, found.files) == files
        assert "rows.jsonl" in found.left_out[0]
    bare = folder_of(tmp_path / "bare", "rows.jsonl")
    with pytest.raises(InputError, match=r"no file of the folder names a split; take seed_data\.split out"):
        find(bare, "seed_data.path", split="train")
    with pytest.raises(InputError, match=r"splits test, train, train_sft and files of no split, and none is dev"):
        find(path, "seed_data.path", split="dev")


def test_an_evaluation_set_reads_its_test_splits(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "train.jsonl", "test.jsonl", "dev.jsonl", "rows.jsonl")
    found = find(path, "filter.evaluation_sets", "test")
    assert names(path, found.files) == ["dev.jsonl", "rows.jsonl", "test.jsonl"]
    assert found.left_out == ["train.jsonl is left out (split train)"]
    assert len(list_files(path, "--rows", "all")) == 4
    alone = folder_of(tmp_path / "b", "train.jsonl")
    assert names(alone, list_files(alone, "filter.evaluation_sets", "test")) == ["train.jsonl"]


def test_unread_files_are_named_with_counts(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "a.jsonl", "README.md", *(f"t/{n}.csv" for n in range(5)), ".cache/x.jsonl", "_SUCCESS")
    (tmp_path / "data/empty.jsonl").touch()
    found = find(path, "seed_data.path")
    assert names(path, found.files) == ["a.jsonl"]
    empty, other, hidden = found.left_out
    assert empty == "empty.jsonl is empty"
    assert other.startswith("6 files are not read") and "5 .csv" in other and "1 .md" in other
    assert hidden.startswith("2 files are not looked into (a name with _ or . first") and ".cache, _SUCCESS" in hidden


def test_tables_of_a_run_are_not_read_as_seed_data(tmp_path: Path) -> None:
    """A run below its own seed data folder would otherwise be read as seed data by its next start."""
    path = folder_of(tmp_path, "a.jsonl", "runs/x/events.jsonl", "runs/x/config.yaml", "runs/x/seed/rows.jsonl")
    for place in (path, f"file://{path}"):
        found = find(place, "seed_data.path")
        assert [Path(file).name for file in found.files] == ["a.jsonl"]
        assert any("runs/x" in note and "not looked into" in note for note in found.left_out)
        with pytest.raises(InputError, match="this is a run of tapir-ray"):
            find(f"{place}/runs/x", "seed_data.path")


def test_a_path_without_a_file_is_refused() -> None:
    """An empty path would mean the working folder."""
    for path in ("", " "):
        with pytest.raises(InputError, match=r"seed_data\.path is empty"):
            find(path, "seed_data.path")
    with pytest.raises(InputError, match="cannot be read"):
        find("a" * 5000, "seed_data.path")


def test_a_folder_without_rows_is_refused_with_its_files(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "a.csv", "b/c.txt")
    with pytest.raises(InputError, match=r"no \.json.* file \(2 files are not read.*a\.csv, b/c\.txt"):
        find(path, "seed_data.path")


def test_subfolders_are_read_and_appear_in_the_places(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "a/rows.jsonl", "b/c/rows.jsonl", "rows.NDJSON")
    places = [place for file in find(path, "seed_data.path").files for place, _ in read_raw(file)]
    assert places == ["a/rows.jsonl:1", "b/c/rows.jsonl:1", "rows.NDJSON:1"]


def test_links_are_followed_once_and_broken_ones_refused(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "a/rows.jsonl")
    (tmp_path / "data/a/loop").symlink_to(tmp_path / "data")
    assert len(find(path, "seed_data.path").files) == 1
    (tmp_path / "data/gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"gone\.jsonl is a link to a file that is not there"):
        find(path, "seed_data.path")


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("a.jsonl.gz", gzip.compress(LINE.encode()) + gzip.compress(LINE.encode())),
        ("a.JSON.GZ", gzip.compress(json.dumps([ROW, ROW]).encode())),
        ("a.ndjson.zst", pa.compress(LINE.encode() * 2, codec="zstd", asbytes=True)),
        ("a.jsonl.bz2", bz2.compress(LINE.encode() * 2)),
    ],
    ids=["gz", "GZ", "zst", "bz2"],
)
def test_compressed_files_are_read(tmp_path: Path, name: str, packed: bytes) -> None:
    (tmp_path / name).write_bytes(packed)
    (file,) = find(str(tmp_path), "seed_data.path").files
    assert [row for _, row in read_raw(file)] == [ROW, ROW]
    (tmp_path / name).write_bytes(packed[:-5])
    *_, (_, last) = read_raw(file)
    assert isinstance(last, Unreadable)


def saved(folder: Path, *splits: str) -> str:
    import datasets

    rows = datasets.Dataset.from_list([ROW])
    data = datasets.DatasetDict({split: rows for split in splits}) if splits else rows
    data.save_to_disk(str(folder))
    return str(folder)


def test_splits_of_a_saved_dataset_are_told_apart(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", "train", "test")
    found = find(path, "seed_data.path")
    assert names(path, found.files) == ["train"] and found.left_out == ["test is left out (split test)"]
    assert names(path, list_files(path, "filter.evaluation_sets", "test")) == ["test"]
    assert names(path, list_files(path, "--rows", "all")) == ["test", "train"]
    other = saved(tmp_path / "b", "default", "extra")
    with pytest.raises(InputError, match=r"splits default, extra.*seed_data\.split"):
        find(other, "seed_data.path")
    assert names(other, list_files(other, "seed_data.path", split="extra")) == ["extra"]


def test_a_single_saved_dataset_is_read_also_below_a_folder(tmp_path: Path) -> None:
    import datasets

    path = saved(tmp_path / "data" / "mine")
    (file,) = find(path, "seed_data.path").files
    assert [row for _, row in read_raw(file)] == [ROW]
    (file,) = find(str(tmp_path / "data"), "seed_data.path").files
    assert [place for place, _ in read_raw(file)] == ["mine:row 1"]
    with pytest.raises(InputError, match=r"seed_data\.split has no effect"):
        find(path, "seed_data.path", split="train")
    formatted = datasets.Dataset.from_list([{**ROW, "n": 1}]).with_format("numpy", columns=["n"])
    formatted.save_to_disk(str(tmp_path / "formatted"))
    assert [row for _, row in read_raw(str(tmp_path / "formatted"))] == [{**ROW, "n": 1}]


def test_keys_without_an_effect_are_refused(tmp_path: Path) -> None:
    file = f"{folder_of(tmp_path, 'a.jsonl')}/a.jsonl"
    with pytest.raises(InputError, match=r"seed_data\.split has no effect on a single file"):
        find_seed(SeedData(path=file, split="train"))
    with pytest.raises(InputError, match=r"seed_data\.revision is for a dataset on the hub"):
        find_seed(SeedData(path=file, revision="main"))
    with pytest.raises(InputError, match=r"~ and \$NAME are not expanded"):
        find("~/mine.jsonl", "seed_data.path")
    with pytest.raises(InputError, match=r"must end in \.json"):
        find(f"{folder_of(tmp_path, 'a.csv')}/a.csv", "seed_data.path")


def test_an_index_of_row_files_is_no_saved_dataset(tmp_path: Path) -> None:
    """LLaMA-Factory's `dataset_info.json` names the files; the folder was once reported as broken."""
    path = folder_of(tmp_path, "my_alpaca.json", text=json.dumps([ROW, ROW]))
    (tmp_path / "data/dataset_info.json").write_text('{"my_alpaca": {"file_name": "my_alpaca.json"}}')
    found = find(path, "seed_data.path")
    assert names(path, found.files) == ["my_alpaca.json"]
    assert found.left_out == ["dataset_info.json describes other files and is not read"]
    assert [row for _, row in read_raw(found.files[0])] == [ROW, ROW]


def test_a_saved_dataset_with_test_and_train_sft_splits_is_refused(tmp_path: Path) -> None:
    """Its first split, `test`, was once trained on."""
    path = saved(tmp_path / "data", "test", "train_sft")
    with pytest.raises(InputError, match=r"splits test, train_sft, and none is train; name one in seed_data\.split"):
        find_seed(SeedData(path=path))
    found = find_seed(SeedData(path=path, split="train_sft"))
    assert names(path, found.files) == ["train_sft"] and found.left_out == ["test is left out (split test)"]


class Hub:
    """`load_dataset` and the hub for one dataset."""

    def __init__(self, splits: dict[str, list[Any]], configurations: tuple[str, ...] = ()) -> None:
        self.splits, self.configurations = splits, configurations

    def load_dataset(self, name: str, configuration: str | None = None, revision: str | None = None) -> Any:
        import datasets

        if self.configurations and configuration not in self.configurations:
            raise ValueError(
                f"Config name is missing.\nPlease pick one among the available configs: {list(self.configurations)}"
            )
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in self.splits.items()})


@pytest.mark.parametrize(
    ("splits", "configurations", "split", "place", "words"),
    [
        (["train", "test"], (), None, "b:train:row 1", ()),
        (["train_sft", "test_sft"], (), None, "", ("train_sft, test_sft", "seed_data.split")),
        (["train_sft", "test_sft"], (), "train_sft", "b:train_sft:row 1", ()),
        (["test"], (), None, "", ("has the splits test", "seed_data.split")),
        (["train", "test"], (), "dev", "", ("train, test", "seed_data.split")),
        (["train"], ("main", "socratic"), None, "", ("main", "socratic", "CONFIG/SPLIT")),
        (["train"], ("main", "socratic"), "main/train", "b:train:row 1", ()),
    ],
)
def test_splits_of_a_hub_dataset_are_chosen_or_refused(
    monkeypatch: pytest.MonkeyPatch, splits: list[str], configurations: tuple[str, ...], split: str | None, place: str,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    hub = Hub({name: [ROW] for name in splits}, configurations)
    monkeypatch.setattr("datasets.load_dataset", hub.load_dataset)
    (file,) = find_seed(SeedData(path="a/b", split=split, revision="main")).files
    ((found, row),) = read_raw(file, "main")
    if words:
        assert isinstance(row, Unreadable) and all(word in str(row) for word in words)
    else:
        assert (found, row) == (place, ROW)


def test_parquet_columns_become_json_values(tmp_path: Path) -> None:
    """A NaN in `meta` was once written as invalid JSON."""
    import datetime
    from decimal import Decimal

    rows = [
        {
            "score": float("nan"), "nested": {"x": [float("inf"), 1.5]}, "at": datetime.datetime(2024, 1, 2, 3),
            "day": datetime.date(2024, 1, 2), "time": datetime.time(1, 2), "cost": Decimal("1.50"), "id": Decimal("7"),
            "took": datetime.timedelta(seconds=90), "picture": b"\xff\xd8\x00", "words": b"text", "n": None, "ok": True,
        }
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    ((_, row),) = read_raw(str(tmp_path / "a.parquet"))
    assert json.loads(json.dumps(row, allow_nan=False)) == row == {
        "score": None, "nested": {"x": [None, 1.5]}, "at": "2024-01-02T03:00:00", "day": "2024-01-02",
        "time": "01:02:00", "cost": 1.5, "id": 7, "took": 90.0, "picture": {"binary": 3}, "words": "text", "n": None,
        "ok": True,
    }  # fmt: skip
