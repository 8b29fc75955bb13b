"""The package of a working tree: which files are sent to a cluster."""

from __future__ import annotations

import os
import random
import subprocess
import zipfile
from pathlib import Path

import pytest

from tapir_ray.cluster.jobs import package
from tapir_ray.cluster.jobs.package import files_of, keys_of, left_out, pack
from tapir_ray.errors import InputError
from tests.runs import ROOT


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_ignored_files_are_not_sent(tmp_path: Path) -> None:
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


def test_this_repository_fits_the_limit() -> None:
    sent = files_of(ROOT)
    assert {"jobs/distill.py", "tapir_ray/llm/prompts/expand.jinja", "configs/demo.yaml"} <= sent.keys()
    assert not [name for name in sent if name.startswith((".git/", ".venv/", "runs/"))]


def test_history_and_environments_are_left_out_without_a_rule(tmp_path: Path) -> None:
    names = (".git/config", ".venv/lib/a.py", "a/__pycache__/a.pyc", ".tapir_forwarded.json")
    write(tmp_path, {**dict.fromkeys(names, "x"), "a/b.py": "xx"})
    assert files_of(tmp_path) == {"a/b.py": 2} and keys_of(tmp_path) == []


def test_files_that_may_hold_keys_are_left_out_and_named(tmp_path: Path) -> None:
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


def test_a_link_to_a_parent_folder_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"a/b.py": ""})
    os.symlink(tmp_path, tmp_path / "a" / "again")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken")
    assert set(files_of(tmp_path)) == {"a/b.py"}


def test_a_large_tree_is_refused_with_its_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MOST_BYTES", 3 * 2**20)
    write(tmp_path, {"data/large.bin": "x" * 2 * 2**20, "data/larger.bin": "x" * 3 * 2**20, "small.py": "x"})
    with pytest.raises(InputError, match=r"has 5\.0 MiB, and at most 3\.0 MiB.*larger\.bin 3\.0 MiB, data/large\.bin"):
        files_of(tmp_path)
    write(tmp_path, {".rayignore": "data/larger.bin\n"})
    assert set(files_of(tmp_path)) == {".rayignore", "data/large.bin", "small.py"}


def test_the_same_content_is_the_same_package(tmp_path: Path) -> None:
    """A cluster is not sent content that it has, and no other user of a node can read a private file."""
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


def tracked(folder: Path) -> set[str]:
    """Returns the files that git would add."""
    subprocess.run(["git", "init", "-q", folder], check=True)
    listed = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "ls-files", "-z", "--others", "--exclude-standard"],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return set(filter(None, listed.stdout.split("\0")))


@pytest.mark.parametrize("seed", range(12))
def test_rules_follow_git(tmp_path: Path, seed: int) -> None:
    """Covers nested files, negations, folders, anchors and stars; git itself gives the expected files."""
    draw = random.Random(seed)
    folders, names = ["", "a/", "b/", "a/b/", "a/b/c/"], ["x.log", "y.txt", "z", "data.json", "#h", "a b.txt", "[k].py"]
    rules = [
        "*.log", "!x.log", "/y.txt", "b/", "!b/", "a/b", "**/z", "a/**/c", "b/*", "!b/z", "*", "!*/", "!*.txt", "# no",
        "", "\\#h", "a b.txt", "[x-z]*", "?", "/a/*/", "data.*  ", "c", "!c", "z/", "\\[k].py", "a/**",
    ]  # fmt: skip
    write(tmp_path, {f"{folder}{name}": "x" for folder in folders for name in names})
    for folder in folders:
        if draw.random() < 0.6:
            end = draw.choice(["\n", "\r\n"])
            (tmp_path / folder / ".gitignore").write_bytes(end.join(draw.sample(rules, 4)).encode())
    assert set(files_of(tmp_path)) == tracked(tmp_path)


def test_a_rayignore_wins_over_a_gitignore(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".gitignore": "*.jsonl\nout/\n",
            ".rayignore": "!seed.jsonl\n!out/\n*.md\n",
            "seed.jsonl": "",
            "other.jsonl": "",
        },
    )
    write(tmp_path, {"out/a.py": "", "README.md": "", "sub/.gitignore": "!README.md\n", "sub/README.md": ""})
    assert set(files_of(tmp_path)) == {".gitignore", ".rayignore", "seed.jsonl", "out/a.py", "sub/.gitignore"}


def test_a_file_with_keys_is_sent_if_a_rayignore_names_it(tmp_path: Path) -> None:
    files = (
        ".env",
        "a/secrets.yaml",
        "b/secrets.yaml",
        ".ssh/config",
        ".ssh/id_rsa",
        "ca.pem",
        "secrets/x",
        "t.key",
    )
    write(tmp_path, {**dict.fromkeys(files, ""), ".gitignore": ".env\n"})
    (tmp_path / ".rayignore").write_text("!.env\n!/a/secrets.yaml\n!*.pem\n!.ssh/config\n!secrets/\n*.key\n!t.key\n")
    assert set(files_of(tmp_path)) - {".gitignore", ".rayignore"} == {
        ".env", "a/secrets.yaml", ".ssh/config", "secrets/x", "t.key",
    }  # fmt: skip
    assert keys_of(tmp_path) == [".ssh/id_rsa", "b/secrets.yaml", "ca.pem"], "a pattern does not let keys through"


def test_a_gitignore_rule_lets_no_key_through(tmp_path: Path) -> None:
    """A repository may keep secrets for another tool, which is no reason to send them to a cluster."""
    write(tmp_path, {".gitignore": "*\n!.env\n!.gitignore\n", ".env": "", "a.py": ""})
    assert set(files_of(tmp_path)) == {".gitignore"} and keys_of(tmp_path) == [".env"]


def test_left_out_files_are_named_up_to_ten(tmp_path: Path) -> None:
    assert left_out(tmp_path) is None
    write(tmp_path, {f"{number:02}.pem": "" for number in range(10)})
    named = left_out(tmp_path)
    assert named is not None and "\n" not in named
    assert "may hold keys: 00.pem, " in named and ", 09.pem; send a key with --env" in named
    write(tmp_path, {".aws/config": "", "z/.npmrc": "", "z/.netrc": ""})
    assert "08.pem and 3 more; send a key with --env, or a file by a line !NAME in .rayignore" in str(
        left_out(tmp_path)
    )


def test_a_link_to_a_key_is_left_out_too(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write(tmp_path, {"home/.ssh/id_rsa": "k", "home/.aws/config": "k", "home/rows.txt": "r", "tree/a.py": ""})
    for name, target in {"deploy.txt": ".ssh/id_rsa", "aws.txt": ".aws/config", "rows.txt": "rows.txt"}.items():
        (tree / name).symlink_to(tmp_path / "home" / target)
    (tree / "data").symlink_to(tmp_path / "home")
    assert set(files_of(tree)) == {"a.py", "rows.txt"} and keys_of(tree) == ["aws.txt", "deploy.txt"]


@pytest.mark.parametrize("line", ["!", "[z-a]", "\\"])
def test_an_invalid_rule_is_named(tmp_path: Path, line: str) -> None:
    """A skipped rule would send the files that it should keep back."""
    write(tmp_path, {"sub/.rayignore": f"*.log\n{line}\n"})
    with pytest.raises(InputError, match=r"sub/\.rayignore line 2 is not a rule of git"):
        files_of(tmp_path)


def test_an_ignore_file_in_another_encoding_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.log": "", "b.txt": ""})
    (tmp_path / ".gitignore").write_bytes(b"\xef\xbb\xbf*.log\r\n# caf\xe9\r\n")
    assert set(files_of(tmp_path)) == {".gitignore", "b.txt"}


def test_no_private_module_of_ray_is_used() -> None:
    files = list((ROOT / "tapir_ray" / "cluster" / "jobs").glob("*.py"))
    assert len(files) > 5
    for file in files:
        assert "ray._private" not in file.read_text()


def test_counted_files_are_the_packed_ones(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    write(source, {"a.py": "aa", "b/c.py": "c", ".env": "k", ".gitignore": "*.log\n", "x.log": "l", "link.txt": ""})
    (source / "link.txt").unlink()
    (source / "link.txt").symlink_to(source / "a.py")
    sent = files_of(source)
    pack(source, sent, {}, tmp_path / "tree.zip")
    with zipfile.ZipFile(tmp_path / "tree.zip") as package:
        assert {entry.filename: entry.file_size for entry in package.infolist()} == sent
    sent["gone.py"] = 1
    with pytest.raises(InputError, match=r"gone\.py cannot be read \(No such file"):
        pack(source, sent, {}, tmp_path / "tree.zip")
