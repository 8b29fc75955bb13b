"""What of a working tree goes to a cluster."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from tapir_ray import tree
from tapir_ray.errors import InputError
from tapir_ray.tree import files_of, keys_of, pack
from tests.runs import ROOT


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_ignored_files_stay_here(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "code.py": "",
            ".gitignore": "runs/\n*.log\n!kept.log\n/only_here.txt\n",
            ".rayignore": "data\n",
            "runs/a/table.parquet": "",
            "one.log": "",
            "kept.log": "",
            "only_here.txt": "",
            "sub/only_here.txt": "",
            "sub/.gitignore": "secret.txt\n",
            "sub/secret.txt": "",
            "secret.txt": "",
            "data/rows.jsonl": "",
            "runs.py": "",
        },
    )
    expected = {".gitignore", ".rayignore", "code.py", "kept.log", "runs.py", "secret.txt"}
    assert set(files_of(tmp_path)) == expected | {"sub/.gitignore", "sub/only_here.txt"}


def test_this_repository_fits() -> None:
    sent = files_of(ROOT)
    assert {"jobs/distill.py", "tapir_ray/llm/prompts/expand.jinja", "configs/demo.yaml"} <= sent.keys()
    assert not [name for name in sent if name.startswith((".git/", ".venv/", "runs/"))]


def test_history_and_environments_stay_here_without_a_rule(tmp_path: Path) -> None:
    names = (".git/config", ".venv/lib/a.py", "a/__pycache__/a.pyc", ".tapir_forwarded.json")
    write(tmp_path, {**dict.fromkeys(names, "x"), "a/b.py": "xx"})
    assert files_of(tmp_path) == {"a/b.py": 2} and keys_of(tmp_path) == []


def test_what_may_hold_keys_stays_here_without_a_rule_and_is_named(tmp_path: Path) -> None:
    keys = {
        ".env", "a/.env", ".env.local", ".envs/prod/django", "a/.netrc", "a/secrets.env", "b/ca.PEM", "server.key",
        ".ssh/id_rsa", ".ssh/id_rsa.old", "id_ed25519",
    }  # fmt: skip
    like_them = {"a/environment.py", "keys.py", "a/keyboard", "env/a.py", "a/netrc.py", "my_id_rsa.py"}
    write(tmp_path, dict.fromkeys(keys | like_them, ""))
    assert set(files_of(tmp_path)) == like_them
    assert set(keys_of(tmp_path)) == keys - {".envs/prod/django"} | {".envs"}
    write(tmp_path, {".gitignore": ".env*\n.ssh/\n"})
    assert set(keys_of(tmp_path)) == {"a/.netrc", "a/secrets.env", "b/ca.PEM", "server.key", "id_ed25519"}


def test_a_link_that_leads_back_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"a/b.py": ""})
    os.symlink(tmp_path, tmp_path / "a" / "again")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken")
    assert set(files_of(tmp_path)) == {"a/b.py"}


def test_a_large_tree_is_refused_with_its_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MOST_BYTES", 3 * 2**20)
    write(tmp_path, {"data/large.bin": "x" * 2 * 2**20, "data/larger.bin": "x" * 3 * 2**20, "small.py": "x"})
    with pytest.raises(InputError, match=r"has 5\.0 MiB, and at most 3\.0 MiB.*larger\.bin 3\.0 MiB, data/large\.bin"):
        files_of(tmp_path)
    write(tmp_path, {".rayignore": "data/larger.bin\n"})
    assert set(files_of(tmp_path)) == {".rayignore", "data/large.bin", "small.py"}


def test_the_same_content_is_the_same_package(tmp_path: Path) -> None:
    """So that a cluster is not sent again what it has; and no other user of a node reads a private file."""
    source = tmp_path / "tree"
    write(source, {"a.py": "a", "sub/b.sh": "b"})
    (source / "sub/b.sh").chmod(0o755)
    private = {".private": b"key"}
    pack(source, files_of(source), private, tmp_path / "one.zip")
    os.utime(source / "a.py", (0, 0))
    pack(source, files_of(source), private, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as package:
        assert {name: package.read(name) for name in package.namelist()} == {
            "a.py": b"a", "sub/b.sh": b"b", ".private": b"key",
        }  # fmt: skip
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in package.infolist()}
    assert modes["sub/b.sh"] == 0o755 and modes[".private"] == 0o600
    (source / "a.py").write_text("changed")
    pack(source, files_of(source), private, tmp_path / "three.zip")
    assert (tmp_path / "three.zip").read_bytes() != (tmp_path / "two.zip").read_bytes()
