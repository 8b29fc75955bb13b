"""A run on s3, against a real server of the protocol on loopback; only local copies of models are on the disk."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import yaml

from tapir_ray.config import parse
from tapir_ray.data.files import find, list_files
from tapir_ray.data.readers import read_raw
from tapir_ray.data.storage import Storage
from tapir_ray.errors import InputError
from tapir_ray.run import model_store
from tapir_ray.run.model_store import FOLDER, local, written
from tapir_ray.run.run import Run
from tests import s3
from tests.runs import Driver, kill, write_config


@pytest.fixture
def bucket() -> Iterator[str]:
    with s3.bucket() as uri:
        yield uri


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of copied models."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "models"))
    return tmp_path / "models"


def test_files_are_written_read_and_listed(bucket: str) -> None:
    storage = Storage.at(f"{bucket}/runs/a")
    assert not storage.exists("") and storage.children("rounds") == []
    storage.write_json("rounds/01/plan.json", {"alpha": 0.3})
    storage.append("events.jsonl", [{"event": 1}])
    storage.append("events.jsonl", [{"event": 2}])
    assert storage.children("") == ["events.jsonl", "rounds"]
    assert storage.read_json("rounds/01/plan.json") == {"alpha": 0.3}
    assert storage.read_text("events.jsonl") == '{"event": 1}\n{"event": 2}\n'
    assert Storage.at(storage.uri_of("rounds")).exists("01/plan.json")


def test_options_of_a_uri_stay_at_its_end(bucket: str) -> None:
    options = f"?endpoint_override={os.environ['AWS_ENDPOINT_URL'].removeprefix('http://')}&scheme=http"
    storage = Storage.at(f"{bucket}/runs/a{options}")
    storage.write_text("seed/rows.jsonl", '{"instruction": "a"}\n')
    assert storage.uri_of("seed") == f"{bucket}/runs/a/seed{options}"
    (file,) = list_files(storage.uri_of("seed"), "seed_data.path")
    assert file == f"{bucket}/runs/a/seed/rows.jsonl{options}"
    assert list(read_raw(file)) == [("rows.jsonl:1", {"instruction": "a"})]


def test_seed_data_in_every_file_format_is_read(bucket: str) -> None:
    storage, rows = Storage.at(f"{bucket}/seed"), [{"instruction": "a", "output": "b"}, {"instruction": "c"}]
    storage.write_text("one.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    storage.write_json("two.json", rows)
    pq.write_table(pa.Table.from_pylist(rows), storage.path("three.parquet"), filesystem=storage.fs)
    storage.write_text("_manifest.json", "{}")
    files = list_files(storage.uri, "seed_data.path")
    assert [file.rsplit("/", 1)[1] for file in files] == ["one.jsonl", "three.parquet", "two.json"]
    for file in files:
        assert [row["instruction"] for _, row in read_raw(file)] == ["a", "c"]
    storage.write_text("with space/a b.jsonl", '{"instruction": "a"}\n')
    (odd,) = list_files(f"{bucket}/seed/with%20space/", "seed_data.path")
    assert list(read_raw(odd)) == [("a b.jsonl:1", {"instruction": "a"})]
    for secret in ("s3://AKIA:abc/def@bucket/runs", "s3://AKIA:abc@bucket", "s3://bucket/runs?secret_key=abc"):
        with pytest.raises(InputError, match="holds a key") as error:
            Storage.at(secret)
        assert "abc" not in str(error.value)
    with pytest.raises(InputError, match=r"seed_data\.path s3://tapir/none: there is no"):
        list_files(f"{bucket}/none", "seed_data.path")


def test_subfolders_splits_and_compressed_files_are_read(bucket: str) -> None:
    options = f"?endpoint_override={os.environ['AWS_ENDPOINT_URL'].removeprefix('http://')}&scheme=http"
    storage = Storage.at(f"{bucket}/nested{options}")
    line = '{"instruction": "a"}\n'
    for name in ("train/a b.jsonl", "train/deep/c.NDJSON", "test/a.jsonl", "notes.txt", ".hidden/a.jsonl"):
        storage.write_text(name, line)
    with storage.fs.open_output_stream(storage.path("train/z.jsonl.gz"), compression=None) as stream:
        stream.write(gzip.compress(line.encode()))
    found = find(storage.uri, "seed_data.path")
    places = [place for file in found.files for place, _ in read_raw(file)]
    assert places == ["train/a b.jsonl:1", "train/deep/c.NDJSON:1", "train/z.jsonl.gz:1"]
    split, other, hidden = found.left_out
    assert split == "test/a.jsonl is left out (split test)"
    assert other.startswith("notes.txt is not read") and hidden.startswith(".hidden/a.jsonl is not looked into")
    storage.write_text("index/dataset_info.json", "{}")
    storage.write_text("index/rows.json", json.dumps([{"instruction": "a"}]))
    (file,) = list_files(storage.uri_of("index"), "seed_data.path")
    assert [row for _, row in read_raw(file)] == [{"instruction": "a"}]


def test_a_missing_bucket_is_refused(bucket: str, tmp_path: Path) -> None:
    config = parse(yaml.safe_load(write_config(tmp_path).read_text()))
    with pytest.raises(InputError, match="s3://nobodys/run cannot be written to"):
        Run.open(config, "s3://nobodys/run")


def test_a_model_is_copied_once_and_again_after_a_change(bucket: str, models: Path) -> None:
    storage = Storage.at(f"{bucket}/runs/a")
    for content in ("{}", '{"a": 1}'):
        with written(storage, "checkpoints/01") as folder:
            Path(folder).mkdir()
            (Path(folder) / "config.json").write_text(content)
        copy = Path(local(storage.uri_of("checkpoints/01")))
        assert copy.is_relative_to(models) and (copy / "config.json").read_text() == content
        (copy / "here").touch()
        assert local(storage.uri_of("checkpoints/01")) == str(copy) and (copy / "here").exists()
    assert storage.children("checkpoints/01") == ["config.json"]
    with pytest.raises(InputError, match="there is no model folder"):
        local(storage.uri_of("checkpoints/02"))


def test_a_models_folder_keeps_its_subfolders(bucket: str, models: Path) -> None:
    """The adapter that the next round continues is in a subfolder of the student's folder."""
    storage = Storage.at(f"{bucket}/runs/a")
    with written(storage, "checkpoints/01") as folder:
        (Path(folder) / "adapter").mkdir(parents=True)
        (Path(folder) / "config.json").write_text("{}")
        (Path(folder) / "adapter/adapter_config.json").write_text('{"r": 4}')
    copy = Path(local(storage.uri_of("checkpoints/01")))
    assert (copy / "adapter/adapter_config.json").read_text() == '{"r": 4}'


def test_only_the_last_copies_of_a_runs_models_are_kept(
    bucket: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_store, "UNUSED_S", 0.0)
    storage = Storage.at(f"{bucket}/runs/a")
    copies = []
    for name in ("checkpoints/00", "checkpoints/01", "checkpoints/02", "classifier/model"):
        storage.write_text(f"{name}/config.json", name)
        copies.append(Path(local(storage.uri_of(name))))
    assert [copy.exists() for copy in copies] == [False, True, True, True]


@pytest.mark.restart
@pytest.mark.timeout(1200)
def test_a_run_on_s3_is_killed_and_continues(tmp_path: Path, bucket: str) -> None:
    """It has a created student in vLLM and a created classifier, so that every model passes through the bucket."""
    size = {"hidden_size": 64, "intermediate_size": 128, "layers": 1, "heads": 2, "vocab_size": 500, "max_length": 128}
    classify: dict[str, Any] = {"by": "deberta", "create": size, "label_rows": 80, "epochs": 1, "max_length": 64}
    driver = Driver(
        write_config(tmp_path, classify=classify), f"{bucket}/runs/a", TAPIR_MODELS=str(tmp_path / "models")
    )
    kills = 0
    for table in ("seed/instructions", "rounds/01/generated"):
        process = driver.start()
        assert driver.wait_for(table, process), driver.printed()
        time.sleep(1.0)
        kills += kill(process)
    assert kills == 2
    driver.finish()
    driver.check_keys()
    assert driver.run.read_json("summary.json")["student"].startswith(f"{bucket}/runs/a/checkpoints/")
    assert driver.run.exists("checkpoints/01/model.safetensors")
    assert s3.SECRET not in driver.output.read_text()
    for info in driver.run.fs.get_file_info(pafs.FileSelector(driver.run.root, recursive=True)):
        if info.type == pafs.FileType.File:
            with driver.run.fs.open_input_stream(info.path) as stream:
                assert s3.SECRET.encode() not in stream.read(), info.path
