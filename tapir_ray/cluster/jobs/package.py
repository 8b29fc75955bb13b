"""Packs the working tree for a cluster: its files, without ignored ones and credentials, in one small zip file.

files = files_of(Path.cwd())
print(left_out(Path.cwd()))
pack(Path.cwd(), files, {}, Path("tree.zip"))
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tapir_ray.cluster.jobs.credential_files import may_hold_key
from tapir_ray.cluster.jobs.env_vars import FILE
from tapir_ray.cluster.jobs.ignore_files import RAY, Rules
from tapir_ray.errors import InputError

NEVER = {".git", ".venv", "venv", "__pycache__", FILE}
"""Names that are always left out: history, installed or compiled files, and the variables of an earlier job."""
MOST_BYTES = 20 * 2**20
"""Largest sum of the file sizes: every node downloads all files before its first task."""
NAMED, NAMED_KEYS = 5, 10
"""Most files that an error, and the note on credentials, list."""


def files_of(tree: Path) -> dict[str, int]:
    """Size in bytes of every file to send, by its path in the tree, without ignored files and credentials.

    Ignore rules are those of git, in `.gitignore` and `.rayignore` files of any folder. Links to folders are not
    followed. Raises InputError, which lists the largest files, if all files are larger than MOST_BYTES together.
    """
    found = {_name(path, tree): path.stat().st_size for path, key in _walk(tree, Rules()) if not key}
    if (total := sum(found.values())) > MOST_BYTES:
        largest = sorted(found, key=lambda name: -found[name])[:NAMED]
        raise InputError(
            f"the working tree {tree} has {_megabytes(total)}, and at most {_megabytes(MOST_BYTES)} are sent: put data "
            "and models on storage that the cluster reaches, and add files that a job does not need to .rayignore "
            "(largest: "
            f"{', '.join(f'{name} {_megabytes(found[name])}' for name in largest)})"
        )
    return found


def keys_of(tree: Path) -> list[str]:
    """Paths in the tree of files and whole folders that are left out only because they may hold credentials."""
    return [_name(path, tree) for path, key in _walk(tree, Rules()) if key]


def left_out(tree: Path) -> str | None:
    """A sentence that lists the paths of `keys_of`; None if there are none."""
    keys = keys_of(tree)
    if not keys:
        return None
    more = f" and {len(keys) - NAMED_KEYS} more" if len(keys) > NAMED_KEYS else ""
    return (
        f"not sent, since they may hold keys: {', '.join(keys[:NAMED_KEYS])}{more}; send a key with --env, or a file "
        f"by a line !NAME in {RAY}"
    )


def pack(tree: Path, files: dict[str, int], private: dict[str, bytes], target: Path) -> None:
    """Writes the tree's `files` to a zip file, and `private` ones (content by name) that only their owner can read.

    Equal content gives equal bytes, so Ray sends nothing to a cluster that already has it. Ray sends the zip file
    unchanged, so exactly these files are sent. Raises InputError for a file that cannot be read.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
        for name in sorted(files):
            try:
                content, mode = (tree / name).read_bytes(), (tree / name).stat().st_mode
            except OSError as error:
                raise InputError(
                    f"{tree / name} cannot be read ({error.strerror}): make it readable, or put it into {RAY}"
                ) from error
            _add(package, name, content, mode)
        for name, content in sorted(private.items()):
            _add(package, name, content, stat.S_IFREG | 0o600)


def _add(package: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name)  # its default date is constant, which keeps the bytes reproducible
    entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
    package.writestr(entry, content)


def _walk(folder: Path, rules: Rules) -> Iterator[tuple[Path, bool]]:
    """Yields (file that is not ignored, False), and (file or whole folder that may hold credentials, True)."""
    rules = rules.with_folder(folder)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({error.strerror}): make it readable, or put it into {RAY}"
        ) from error
    for entry in entries:
        if entry.name in NEVER or rules.leave_out(entry):
            continue
        is_folder, is_file = entry.is_dir(), entry.is_file()
        if (is_file or is_folder) and not rules.force(entry) and may_hold_key(entry):
            yield entry, True
        elif is_file:
            yield entry, False
        elif is_folder and not entry.is_symlink():
            yield from _walk(entry, rules)


def _name(entry: Path, tree: Path) -> str:
    return entry.relative_to(tree).as_posix()


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
