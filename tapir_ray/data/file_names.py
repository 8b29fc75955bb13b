"""What a file's name says: how its rows are stored, which split it is of; and which splits of a dataset are read.

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
"""Of a path in a sub-folder, what comes before is the folder that was given; a row's place is what comes after."""

Use = Literal["train", "test", "all"]
"""What rows are read for: training (no test split), evaluation (only the test splits where there are any), or all."""
TRAIN, TEST, ALL = "train", "test", "all"
HELD_OUT = {
    **dict.fromkeys(("test", "tests", "testing", "testset", "testdata"), TEST),
    **dict.fromkeys(("eval", "evals", "evaluation", "evalset", "holdout", "heldout"), TEST),
    **dict.fromkeys(("validation", "valid", "val", "valset", "dev", "devset"), "validation"),
}
WORDS = {**HELD_OUT, "train": TRAIN, "training": TRAIN, "trainset": TRAIN}
"""Words of a name, and the split they stand for."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?:-[0-9a-f]{8,})?$")
_BREAK = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
"""Between two words of a name, also of `gsm8kTest`."""
_HOLD_OUT = re.compile(r"hold[-_. ]out", re.IGNORECASE)


def split_of(name: str) -> str | None:
    """The split that a file's path inside its folder names (`test`, `train_sft`), None if it names none.

    It is `test`, `validation` or `train`, or the whole name of a folder or of numbered shards. A name for tests or
    validation anywhere in the path wins over one for training.
    """
    *folders, last = PurePosixPath(name).parts
    stem = _stem(last)
    shards = _SHARD.sub("", stem)
    found = [_kind(stem) if shards == stem else _whole(shards), *map(_whole, reversed(folders))]
    known = [split for split in found if split is not None]
    return next((split for split in known if is_held_out(split)), known[0] if known else None)


def is_held_out(split: str | None) -> bool:
    """Whether a split is for tests or validation."""
    return split is not None and _kind(split) not in (None, TRAIN)


def chosen(splits: Iterable[str], wanted: str | None, use: Use) -> list[str]:
    """The splits of a dataset that are read; empty if a user must say which.

    `wanted` is the split that the user names: it alone. Else for training it is `train`, for evaluation those for tests
    and validation (all, if there are none), and for `all` every one.
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
    """The splits of files, in words."""
    return ", ".join(sorted({split for split in splits if split is not None}))


def _whole(name: str) -> str | None:
    """`training` is `train` by another name, but `train_sft` is a split of its own."""
    return WORDS.get(name.lower(), name) if _kind(name) is not None else None


def _kind(name: str) -> str | None:
    """The split that a word of a name stands for: for training only the first or the last word can."""
    words = [re.sub(r"\d+$", "", word.lower()) for word in _BREAK.split(_HOLD_OUT.sub("holdout", name)) if word]
    held_out = next((HELD_OUT[word] for word in words if word in HELD_OUT), None)
    is_train = words != [] and TRAIN in (WORDS.get(words[0]), WORDS.get(words[-1]))
    return held_out or (TRAIN if is_train else None)


def _stem(name: str) -> str:
    """A file's name without the suffixes that say how it is stored."""
    path = PurePosixPath(name)
    while path.suffix.lower() in (*KINDS, *COMPRESSED):
        path = path.with_suffix("")
    return path.name


def kind_of(name: str) -> str | None:
    """How the rows of a file are stored, by its name; None if it is not read."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    last = suffixes[-1] if suffixes else ""
    if last in COMPRESSED:
        kind = KINDS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return kind if kind != PARQUET else None
    return KINDS.get(last)
