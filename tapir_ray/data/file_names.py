"""Derives format and split of a file from its name, and selects the splits of a dataset to read.

    kind_of("rows.jsonl.gz")                            # "lines"
    split_of("data/test-00000-of-00001.parquet")        # "test"
    chosen(["train", "test"], None, TRAIN)              # ["train"]

A word such as `test` anywhere in a name counts, as on the Hugging Face hub.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Literal

LINES, LIST, PARQUET = "lines", "list", "parquet"
KINDS = {".jsonl": LINES, ".ndjson": LINES, ".json": LIST, ".parquet": PARQUET}
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
READ = ".json, .jsonl, .ndjson (also .gz, .zst or .bz2) or .parquet"
INSIDE = "/./"
"""Separates the folder that the user gave from the path inside it; rows are reported with the path inside."""

Use = Literal["train", "test", "all"]
"""Purpose of reading: `train` reads no test split, `test` only test splits (all splits if there is none), `all` all."""
TRAIN, TEST = "train", "test"
HELD_OUT = {
    **dict.fromkeys(("test", "tests", "testing", "testset", "testdata"), TEST),
    **dict.fromkeys(("eval", "evals", "evaluation", "evalset", "holdout", "heldout"), TEST),
    **dict.fromkeys(("validation", "valid", "val", "valset", "dev", "devset"), "validation"),
}
WORDS = {**HELD_OUT, "train": TRAIN, "training": TRAIN, "trainset": TRAIN}
"""Splits by the words of a name that stand for them."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?:-[0-9a-f]{8,})?$")
_BREAK = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
"""Boundary of two words in a name: punctuation, or a change of case as in `gsm8kTest`."""
_HOLD_OUT = re.compile(r"hold[-_. ]out", re.IGNORECASE)


def split_of(name: str) -> str | None:
    """The split named by a file's path inside its folder, such as `test` or `train_sft`; None if it names none.

    It is `test`, `validation` or `train`, or the whole name of a folder or of numbered shards. A word for tests or
    validation anywhere in the path wins over one for training, so that test rows are never trained on by accident.
    """
    *folders, last = PurePosixPath(name).parts
    stem = _stem(last)
    shards = _SHARD.sub("", stem)
    found = [_kind(stem) if shards == stem else _whole(shards), *map(_whole, reversed(folders))]
    known = [split for split in found if split is not None]
    return next((split for split in known if is_held_out(split)), known[0] if known else None)


def is_held_out(split: str | None) -> bool:
    """Returns whether a split is for tests or validation."""
    return split is not None and _kind(split) not in (None, TRAIN)


def chosen(splits: Iterable[str], wanted: str | None, use: Use) -> list[str]:
    """The splits of a dataset to read; empty if the user must name one.

    `wanted`, the split that the user names, is read alone. Without it: `train` for training, the splits for tests and
    validation for evaluation (every split if there are none), every split for `all`.
    """
    names = list(splits)
    if wanted is not None:
        return [wanted] if wanted in names else [name for name in names if WORDS.get(name.lower()) == wanted]
    if use == "all":
        return names
    if use == "train":
        return [TRAIN] if TRAIN in names else []
    return [name for name in names if is_held_out(name)] or names


def named(splits: Sequence[str | None]) -> str:
    """The distinct splits as a list for a message: `test, train`; empty without any."""
    return ", ".join(sorted({split for split in splits if split is not None}))


def _whole(name: str) -> str | None:
    """The split of a whole name: `training` is `train`, but `train_sft` is a split of its own."""
    return WORDS.get(name.lower(), name) if _kind(name) is not None else None


def _kind(name: str) -> str | None:
    """The split that a word of a name stands for; None without one.

    Only the first or the last word can mean training: `how_to_train_dogs` names no split.
    """
    words = [re.sub(r"\d+$", "", word.lower()) for word in _BREAK.split(_HOLD_OUT.sub("holdout", name)) if word]
    # A word for tests counts anywhere, and one for training only at an edge: a wrong guess then leaves rows out.
    held_out = next((HELD_OUT[word] for word in words if word in HELD_OUT), None)
    is_train = words != [] and TRAIN in (WORDS.get(words[0]), WORDS.get(words[-1]))
    return held_out or (TRAIN if is_train else None)


def _stem(name: str) -> str:
    """A file's name without the suffixes of format and compression: `rows.jsonl.gz` gives `rows`."""
    path = PurePosixPath(name)
    while path.suffix.lower() in (*KINDS, *COMPRESSED):
        path = path.with_suffix("")
    return path.name


def kind_of(name: str) -> str | None:
    """The format of a file by its name (LINES, LIST or PARQUET); None if files of this name are not read."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    last = suffixes[-1] if suffixes else ""
    if last in COMPRESSED:
        kind = KINDS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return kind if kind != PARQUET else None  # Parquet needs random access, which a compressed stream lacks
    return KINDS.get(last)
