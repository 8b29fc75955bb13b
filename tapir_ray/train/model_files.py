"""Checks that the files of a model folder are complete, without reading their content.

    problems = file_problems(Path("my/folder"))      # ["model-00002-of-00003.safetensors is missing, which …"]

Checks the files that transformers and vLLM load: config, tokenizer, and the weights in the first format found.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POINTER = b"version https://git-lfs.github.com/spec/"
"""First bytes of a pointer file of Git LFS."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Weight files, in the order in which transformers looks for them."""
INDEX = ".index.json"
_SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spm.model",
    "chat_template.jinja",
    "chat_template.json",
)
_OTHERS = (".gguf", ".pth", ".pt", ".h5", ".msgpack")
_TOKENIZER = ("tokenizer", "vocab", "tokenization", "tekken")
_NAMED = 4
"""Most names that a sentence lists."""


def file_problems(folder: Path, served: bool = False) -> list[str]:
    """A sentence for each file that is missing, truncated or a pointer of Git LFS.

    The weights of a model that is only `served` may have another format that vLLM knows.
    """
    problems = [_pointer(folder / name) for name in _SMALL if is_pointer(folder / name)]
    if not any(file.name.startswith(_TOKENIZER) or file.suffix in (".model", ".tiktoken") for file in folder.glob("*")):
        problems.append("it has no tokenizer (tokenizer.json and tokenizer_config.json)")
    weights = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        others = [file for file in folder.glob("*") if file.suffix in (*_OTHERS, ".safetensors", ".bin")]
        if served and others:
            return [*problems, *(_pointer(file) for file in others if is_pointer(file))]
        return [*problems, _no_weights(folder)]
    if is_pointer(folder / weights):
        problems.append(_pointer(folder / weights))
    elif weights.endswith(INDEX):
        problems += _index_problems(folder, weights)
    else:
        problems += _weight_problems(folder / weights)
    return problems


def has_weights(folder: Path) -> bool:
    """Returns whether a folder has weights that transformers finds."""
    return any((folder / name).is_file() for name in WEIGHTS)


def is_pointer(file: Path) -> bool:
    """Returns whether a file is a pointer that Git LFS has left in place of the real one."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(len(POINTER)) == POINTER


def _pointer(file: Path) -> str:
    return f"{file.name} is a pointer of Git LFS and not the file itself: run `git lfs pull` in the folder"


def _no_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "it holds only an adapter: merge it into its base model first"
    others = sorted(
        file.name for file in folder.glob("*") if file.suffix in (".gguf", ".pth", ".h5", ".msgpack", ".pt")
    )
    there = f"; {named(others)} is in a format that is not read here" if others else ""
    return f"it has no weights (model.safetensors, or an index with its shards){there}"


def _index_problems(folder: Path, index: str) -> Iterator[str]:
    try:
        where: dict[str, str] = json.loads((folder / index).read_text())["weight_map"]
        shards = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        yield f"{index} is no index of weights"
        return
    if lost := [shard for shard in shards if not (folder / shard).is_file()]:
        are = "are" if len(lost) > 1 else "is"
        yield f"{named(lost)} {are} missing, of the {len(shards)} shards that {index} names"
    for shard in (folder / shard for shard in shards if shard not in lost):
        problems = list(_weight_problems(shard))
        yield from problems
        if problems or shard.suffix != ".safetensors":
            continue
        # The index may be of another save than the shard.
        there = _header(shard)
        if absent := sorted(name for name, file in where.items() if file == shard.name and name not in there):
            yield f"{shard.name} lacks {named(absent)}, which {index} lists"


def _weight_problems(file: Path) -> Iterator[str]:
    if is_pointer(file):
        yield _pointer(file)
    elif file.suffix == ".safetensors":
        size = file.stat().st_size
        try:
            end = _end(file)
        except (ValueError, KeyError, TypeError, AttributeError):
            yield f"{file.name} is cut short or no safetensors file ({size:,} bytes)"
            return
        if end > size:
            yield f"{file.name} is cut short: it has {size:,} of {end:,} bytes"
        elif end < size:
            yield f"{file.name} has {size:,} bytes, and its header says {end:,}: copy it again"
    else:
        with file.open("rb") as stream:
            begins = stream.read(2)
        # torch 1.6 and later write zip archives (PK), older versions bare pickles (0x80 0x02).
        if begins not in (b"PK", b"\x80\x02") or (begins == b"PK" and not zipfile.is_zipfile(file)):
            yield f"{file.name} is cut short or no checkpoint of torch ({file.stat().st_size:,} bytes)"


def _end(file: Path) -> int:
    """Size of a safetensors file in bytes according to its header."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    offsets = [entry["data_offsets"][1] for entry in _header(file).values()]
    return 8 + length + max(offsets, default=0)


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError("longer than the file")
        header = json.loads(stream.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def named(names: list[str]) -> str:
    """The first names and the number of the others: `a, b, c, d and 2 more`."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
