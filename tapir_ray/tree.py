"""The working tree as it goes to a cluster: its files without ignored ones and keys, in one small zip file.

files = files_of(Path.cwd())
pack(Path.cwd(), files, {}, Path("tree.zip"))
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from ray._private.thirdparty.pathspec import PathSpec

from tapir_ray.errors import InputError
from tapir_ray.forwarded import FILE

IGNORE_FILES = (".gitignore", ".rayignore")
NEVER = {".git", ".venv", "venv", "__pycache__", FILE}
"""Left out by their names: history, what is installed or compiled, and what an earlier job was given."""
KEYS = (
    ".env*", "*.env", ".netrc", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", ".aws", ".kube",
    "kubeconfig*", "application_default_credentials.json",
)  # fmt: skip
"""Names of files and folders that are likely to hold keys, in any case of letters; left out as well."""
MOST_BYTES = 20 * 2**20
"""Every node gets all of it before its first task."""
NAMED = 5

Ignore = tuple[Path, PathSpec]
"""A folder, and the rules of an ignore file in it."""


def files_of(tree: Path) -> dict[str, int]:
    """Bytes of every file of the tree that no ignore file and none of KEYS leaves out, by its path in the tree.

    Rules are those of git, in `.gitignore` and `.rayignore` of any folder; links to folders are not followed. Raises
    InputError, naming the largest files, where all together are more than MOST_BYTES.
    """
    found = {_name(path, tree): path.stat().st_size for path in _walk(tree, ()) if not _may_hold_key(path)}
    if (total := sum(found.values())) > MOST_BYTES:
        largest = sorted(found, key=lambda name: -found[name])[:NAMED]
        raise InputError(
            f"the working tree {tree} has {_megabytes(total)}, and at most {_megabytes(MOST_BYTES)} are sent: put data "
            "and models on storage that the cluster reaches, and into .rayignore what a job does not need (largest: "
            f"{', '.join(f'{name} {_megabytes(found[name])}' for name in largest)})"
        )
    return found


def keys_of(tree: Path) -> list[str]:
    """What KEYS alone leaves out, files and whole folders, by the path in the tree."""
    return [_name(path, tree) for path in _walk(tree, ()) if _may_hold_key(path)]


def pack(tree: Path, files: dict[str, int], private: dict[str, bytes], target: Path) -> None:
    """Write the tree's `files` to a zip file, and `private` ones that only their owner may read.

    The same content gives the same bytes, so that a cluster which has it already is sent nothing.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
        for name in sorted(files):
            _add(package, name, (tree / name).read_bytes(), (tree / name).stat().st_mode)
        for name, content in sorted(private.items()):
            _add(package, name, content, 0o100600)


def _add(package: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name)  # its time is always the same
    entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
    package.writestr(entry, content)


def _walk(folder: Path, ignores: tuple[Ignore, ...]) -> Iterator[Path]:
    """Files that are not ignored; a folder that may hold keys comes itself instead of its files."""
    ignores = (*ignores, *_ignores_of(folder))
    for entry in sorted(folder.iterdir()):
        # A rule that ends with a slash is for folders alone.
        if entry.name in NEVER or _ignored(entry, ignores, "/" if entry.is_dir() else ""):
            continue
        if entry.is_file() or _may_hold_key(entry):
            yield entry
        elif entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, ignores)


def _may_hold_key(entry: Path) -> bool:
    return any(fnmatchcase(entry.name.lower(), pattern) for pattern in KEYS)


def _name(entry: Path, tree: Path) -> str:
    return entry.relative_to(tree).as_posix()


def _ignores_of(folder: Path) -> Iterator[Ignore]:
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            yield folder, PathSpec.from_lines("gitwildmatch", (folder / name).read_text().splitlines())


def _ignored(entry: Path, ignores: tuple[Ignore, ...], end: str = "") -> bool:
    return any(rules.match_file(f"{entry.relative_to(folder).as_posix()}{end}") for folder, rules in ignores)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
