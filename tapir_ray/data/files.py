"""Finds the files of instruction data, and reports those that are left out.

found = find("data/", "seed_data.path")
for note in found.left_out: print(note)
rows = (row for file in found.files for row in read_raw(file))          # tapir_ray.data.readers
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from tapir_ray.data.file_names import COMPRESSED, KINDS, READ, TRAIN, Use, chosen, is_held_out, kind_of, named, split_of
from tapir_ray.data.secret_uris import refuse_secret
from tapir_ray.data.storage import is_remote, uri_in
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError

FILE_SUFFIXES = (*KINDS, *COMPRESSED, ".csv", ".tsv", ".txt", ".zip", ".xz", ".tar", ".arrow", ".yaml", ".xlsx")
"""A path with one of these suffixes is a file, never a hub id."""
STATE, INFO, DICT = "state.json", "dataset_info.json", "dataset_dict.json"
"""Files of HF datasets' `save_to_disk`: the first two in the folder of a dataset, the last in that of a DatasetDict."""
INDEXES = (INFO, "dataset_infos.json")
"""JSON files of HF datasets that describe other files and hold no rows."""
RUN = ("config.yaml", {"events.jsonl", "attempts"})
"""A folder with the first and one of the others is a run of tapir-ray, whose tables are never read by accident."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HIDDEN = " (a name with _ or . first, or a run of tapir-ray)"
SHOWN = 4
"""Most names that a note lists."""


@dataclass
class Found:
    """The files (or saved datasets, or the hub id) of a path, and a sentence on each kind of file left out."""

    files: list[str]
    left_out: list[str] = field(default_factory=list)


@dataclass
class _Entry:
    """A file or a saved dataset, by its path inside the folder that was given."""

    name: str
    size: int
    saved: bool = False
    split: str | None = None
    """Split of a saved DatasetDict."""


def list_files(path: str, key: str, use: Use = "train", split: str | None = None) -> list[str]:
    """The files of `find`, without its notes."""
    return find(path, key, use, split).files


def find(path: str, key: str, use: Use = "train", split: str | None = None, revision: str | None = None) -> Found:
    """The data files at a path, sorted: the file itself, or those of a folder and its sub-folders.

    For training, files and splits for tests or validation are left out unless `split` (the value of `seed_data.split`)
    names them. Names that begin with `_` or `.` are left out. A hub id is returned as it is; reading it looks it up.

    Raises InputError, which names `key` and the path, if there is nothing to read, if a split must be named, or if
    `split` or `revision` has no effect.
    """
    where = f"{key} {path}"
    if not path.strip():
        raise InputError(f"{key} is empty: name a file, a folder or a hub id")
    try:
        is_file, is_folder = (False, False) if is_remote(path) else (Path(path).is_file(), Path(path).is_dir())
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    entries: list[_Entry] = []
    hidden: list[str] = []
    if is_remote(path):
        refuse_secret(path)
        is_file, entries, hidden = _remote_entries(path, where)
    elif is_folder:
        entries, hidden = _local_entries(path, where)
    elif not is_file:
        return _hub(path, where, split)
    if revision is not None:
        raise InputError(f"{where}: seed_data.revision is for a dataset on the hub and has no effect here; take it out")
    if is_file or [entry.name for entry in entries] == ["."]:
        if split is not None:
            raise InputError(f"{where}: seed_data.split has no effect on a single file or dataset; take it out")
        if is_file and kind_of(unquote(path.partition("?")[0]) if is_remote(path) else path) is None:
            raise InputError(f"{where}: the file must end in {READ}")
        return Found([path])
    return _of_folder(path, where, entries, hidden, use, split)


class SeedSource(Protocol):
    """The fields of the config's `SeedData` that locate the seed data."""

    @property
    def path(self) -> str | None: ...
    @property
    def split(self) -> str | None: ...
    @property
    def revision(self) -> str | None: ...


def find_seed(seed_data: SeedSource) -> Found:
    """The files of the seed data. Raises InputError as `find` does."""
    return find(seed_data.path or "", "seed_data.path", "train", seed_data.split, seed_data.revision)


def is_hub_id(file: str) -> bool:
    """Returns whether one of `Found.files` is the id of a dataset on the hub."""
    return HUB_ID.fullmatch(file.partition("#")[0]) is not None and not Path(file).exists()


def _of_folder(path: str, where: str, entries: list[_Entry], hidden: list[str], use: Use, split: str | None) -> Found:
    rows = [entry for entry in entries if entry.saved or _holds_rows(entry)]
    other = {entry.name for entry in entries} - {entry.name for entry in rows}
    indexes = {name for name in other if PurePosixPath(name).name in INDEXES}
    empty = {entry.name for entry in rows if not entry.saved and entry.size == 0}
    rows = [entry for entry in rows if entry.name not in empty]
    notes = [
        _note(empty, "is empty", "are empty"),
        _note(indexes, "describes other files and is not read", "describe other files and are not read"),
        _note(other - indexes, f"is not read, as it is no {READ} file", f"are not read, as they are no {READ} files"),
        _note(set(hidden), "is not looked into" + HIDDEN, "are not looked into" + HIDDEN),
    ]
    if not rows:
        reasons = "; ".join(note for note in notes if note)
        raise InputError(f"{where}: the folder has no {READ} file{f' ({reasons})' if reasons else ''}")
    splits = {entry.name: entry.split or split_of(entry.name) for entry in rows}
    taken = _taken(splits, use, split)
    if not taken:
        raise InputError(f"{where}: {_why_none(splits, split, where)}")
    left = splits.keys() - set(taken)
    names = named([splits[name] for name in left])
    one, many = (f"(split {names})", f"(splits {names})") if names else ("(of no split)",) * 2
    notes.insert(0, _note(left, f"is left out {one}", f"are left out {many}"))
    return Found([_join(path, name) for name in sorted(taken)], [note for note in notes if note])


def _taken(splits: dict[str, str | None], use: Use, wanted: str | None) -> list[str]:
    """The names to read, given the split of each name; empty if the user must name a split."""
    names = {split for split in splits.values() if split is not None}
    if wanted is not None:
        picked = chosen(names, wanted, use)
        return [name for name, split in splits.items() if split in picked]
    if use == "all" or not names:
        return list(splits)
    if use == "test":
        return [name for name, split in splits.items() if split is None or split in chosen(names, None, use)]
    others = {split for split in names if not is_held_out(split) and split != TRAIN}
    if others and TRAIN not in names:
        return []
    return [name for name, split in splits.items() if split in (None, TRAIN)]


def _why_none(splits: dict[str, str | None], wanted: str | None, where: str) -> str:
    """The message if no split was selected, given the split of each name."""
    there = named([*splits.values()])
    if not there:
        return "no file of the folder names a split; take seed_data.split out to read them all"
    what = f"the folder has the splits {there}" + (" and files of no split" if None in splits.values() else "")
    if wanted is not None:
        return f"{what}, and none is {wanted}; correct seed_data.split"
    ask = "name one in seed_data.split" if where.startswith("seed_data.") else "name the files themselves"
    return f"{what}, and none is train; {ask}"


def _note(names: Collection[str], one: str, many: str) -> str:
    """A sentence on some files, with the predicate `one` or `many`; empty without names.

    `_note({"a.csv", "b.csv"}, "is empty", "are empty")` is `2 files are empty: a.csv, b.csv`.
    """
    if len(names) <= 1:
        return f"{next(iter(names))} {one}" if names else ""
    shown = ", ".join(sorted(names)[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    suffixes = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in names)
    counts = "" if len(names) <= SHOWN else "; " + ", ".join(f"{count} {suffix}" for suffix, count in suffixes.items())
    return f"{len(names)} files {many}: {shown}{counts}"


def _hub(path: str, where: str, split: str | None) -> Found:
    location = Path(path)
    if HUB_ID.fullmatch(path) and location.suffix.lower() not in FILE_SUFFIXES and not location.parent.is_dir():
        return Found([path if split is None else f"{path}#{split}"])
    unexpanded = "; ~ and $NAME are not expanded here" if path.startswith("~") or "$" in path else ""
    raise InputError(f"{where}: there is no such file or folder, and it is not a hub id (owner/name){unexpanded}")


def _holds_rows(entry: _Entry) -> bool:
    return kind_of(entry.name) is not None and PurePosixPath(entry.name).name not in INDEXES


def _join(folder: str, name: str) -> str:
    """The path of a file in a folder, with INSIDE between the folder and a path that has sub-folders."""
    if is_remote(folder):
        name = quote(name)
    if "/" in name:
        return uri_in(f"{folder.rstrip('/')}/." if not is_remote(folder) else _dotted(folder), name)
    return uri_in(folder, name)


def _dotted(uri: str) -> str:
    place, mark, options = uri.partition("?")
    return f"{place.rstrip('/')}/.{mark}{options}"


def _local_entries(path: str, where: str) -> tuple[list[_Entry], list[str]]:
    """(files and saved datasets, hidden names) of a folder and its sub-folders."""
    found: list[_Entry] = []
    hidden: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"{where}: {error.filename} cannot be read ({error.strerror})") from error

    for folder, folders, files in os.walk(path, followlinks=True, onerror=refuse):
        inside = os.path.relpath(folder, path).replace(os.sep, "/")
        prefix = "" if inside == "." else f"{inside}/"
        if os.path.realpath(folder) in seen:  # a link to a folder above: following it would not end
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        if RUN[0] in files and not RUN[1].isdisjoint([*files, *folders]):
            if not prefix:
                raise InputError(f"{where}: this is a run of tapir-ray; name the folder of one of its tables")
            hidden.append(inside)
            folders.clear()
            continue
        splits = _splits_of_dict(folder) if DICT in files else None
        if splits is not None or {STATE, INFO} <= set(files):
            if splits is None:
                found.append(_Entry(inside, 1, saved=True))
            else:
                found += [_Entry(f"{prefix}{name}", 1, saved=True, split=name) for name in splits]
            folders.clear()
            continue
        for name in [*files, *folders]:
            if name.startswith(("_", ".")):
                hidden.append(prefix + name)
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        for name in files:
            if not name.startswith(("_", ".")):
                place = os.path.join(folder, name)
                if not os.path.exists(place):
                    raise InputError(f"{where}: {prefix}{name} is a link to a file that is not there")
                found.append(_Entry(prefix + name, os.path.getsize(place)))
    return found, hidden


def _splits_of_dict(folder: str) -> list[str] | None:
    """The splits of a saved HF DatasetDict; None if the folder is not one."""
    try:
        splits = json.loads(Path(folder, DICT).read_bytes())["splits"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
        return None
    return splits


def _is_hidden(name: str, runs: Collection[str]) -> bool:
    return any(part[0] in "_." for part in name.split("/") if part) or any(name.startswith(f"{run}/") for run in runs)


def _remote_entries(uri: str, where: str) -> tuple[bool, list[_Entry], list[str]]:
    """(True if the URI is a file, files of the folder, hidden names in the folder)."""
    try:
        fs, path = pafs.FileSystem.from_uri(uri)
        info = fs.get_file_info(path.rstrip("/"))
        if info.type == pafs.FileType.NotFound:
            raise InputError(f"{where}: there is no such file or folder")
        if info.type == pafs.FileType.File:
            return True, [], []
        listed = fs.get_file_info(pafs.FileSelector(path, recursive=True))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{where}: cannot be read ({one_line(error)})") from error
    root = path.rstrip("/") + "/"
    files = {entry.path.removeprefix(root): entry.size for entry in listed if entry.type == pafs.FileType.File}
    runs = {entry.path.removeprefix(root).rpartition("/")[0] for entry in listed if entry.base_name in RUN[1]}
    runs &= {name.rpartition("/")[0] for name in files if PurePosixPath(name).name == RUN[0]}
    if "" in runs:
        raise InputError(f"{where}: this is a run of tapir-ray; name the folder of one of its tables")
    kept = {name: size for name, size in files.items() if not _is_hidden(name, runs)}
    for name in kept:
        folder = name.rpartition("/")[0]
        siblings = {other.rpartition("/")[2] for other in kept if other.rpartition("/")[0] == folder}
        if PurePosixPath(name).name == DICT or {STATE, INFO} <= siblings:
            raise InputError(
                f"{where}: a dataset saved by `save_to_disk` can be read from a local folder only; write it there as "
                "Parquet with `to_parquet`, or copy it to a local folder on each machine"
            )
    return False, [_Entry(name, size) for name, size in kept.items()], sorted(files.keys() - kept.keys())
