"""What a generated instruction must pass before an answer is paid for. Rows are marked, never dropped.

    holdout = overlap_index(holdout_rows, config)
    marked = filter_generated(rows, config, {"holdout": holdout}, work_dir, earlier=[seed_bands])

Reasons, the first that applies: `empty`, `over_long`, `prompt_leakage`, `other_task: LABEL`, what a user's function
returns, `overlap_holdout: KIND` and `overlap_evaluation: KIND` (KIND: exact, near_duplicate, ngram), `duplicate: ID`,
`near_duplicate: ID`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import xxhash

from tapir_ray import near_duplicates
from tapir_ray.config import Config
from tapir_ray.llm.prompts import Prompts
from tapir_ray.minhash import band_hashes, signatures, similarity, words_of
from tapir_ray.near_duplicates import replace_status
from tapir_ray.records import OK, Message, instruction_id, text_of
from tapir_ray.registry import resolve

LEAK_CHARS = 30
"""A part of the expansion prompt of at least this length, found in an instruction, is the prompt and not its answer."""

RowFilter = Callable[[dict[str, Any]], str | None]
"""A user's filter: a row in, a reason to drop it (a short snake_case word) or None out."""


@dataclass(frozen=True)
class OverlapIndex:
    """Texts that must not be trained on, as hashes: small enough to be sent to every worker."""

    ids: frozenset[str]
    ngrams: np.ndarray
    """Sorted uint64 hashes of all word n-grams."""
    bands: np.ndarray
    """Sorted uint64 band hashes, and in `members` the text of each."""
    members: np.ndarray
    signatures: np.ndarray
    ngram: int
    threshold: float

    @classmethod
    def build(cls, conversations: Iterable[Sequence[Message]], ngram: int, threshold: float) -> OverlapIndex:
        """The index of some conversations' contexts; `ngram` 0 leaves n-grams out."""
        messages = list(conversations)
        texts = [text_of(one) for one in messages]
        signature = signatures(texts)
        hashes = band_hashes(signature, threshold)
        order = np.argsort(hashes, axis=None, kind="stable")
        return cls(
            ids=frozenset(instruction_id(one) for one in messages),
            ngrams=np.unique(np.array([found for text in texts for found in ngram_hashes(text, ngram)], np.uint64)),
            bands=hashes.reshape(-1)[order],
            members=order // max(1, hashes.shape[1]),
            signatures=signature,
            ngram=ngram,
            threshold=threshold,
        )

    def overlaps(self, conversations: Sequence[Sequence[Message]]) -> list[str | None]:
        """For each conversation `exact`, `near_duplicate`, `ngram`, or None."""
        texts = [text_of(one) for one in conversations]
        signature = signatures(texts)
        hashes = band_hashes(signature, self.threshold)
        left, right = np.searchsorted(self.bands, hashes, "left"), np.searchsorted(self.bands, hashes, "right")
        found: list[str | None] = []
        for index, (messages, text) in enumerate(zip(conversations, texts, strict=True)):
            spans = [self.members[a:b] for a, b in zip(left[index], right[index], strict=True) if b > a]
            if instruction_id(messages) in self.ids:
                found.append("exact")
            elif spans and self._is_near(signature[index], np.unique(np.concatenate(spans))):
                found.append("near_duplicate")
            elif self._has_ngram(text):
                found.append("ngram")
            else:
                found.append(None)
        return found

    def _is_near(self, signature: np.ndarray, members: np.ndarray) -> bool:
        return bool((similarity(self.signatures[members], signature[None]) >= self.threshold).any())

    def _has_ngram(self, text: str) -> bool:
        wanted = np.array(ngram_hashes(text, self.ngram), np.uint64)
        if not len(self.ngrams):
            return False
        # By search, as they lie sorted: `np.isin` would sort all of them again for every text.
        at = np.searchsorted(self.ngrams, wanted).clip(max=len(self.ngrams) - 1)
        return bool((self.ngrams[at] == wanted).any())


def ngram_hashes(text: str, ngram: int) -> list[int]:
    """64-bit hashes of the lower-case word n-grams of a text; none where it has fewer words, or for an n of 0."""
    words = words_of(text)
    if not ngram:
        return []
    return [xxhash.xxh3_64_intdigest(" ".join(words[at : at + ngram]).encode()) for at in range(len(words) - ngram + 1)]


def overlap_index(rows: ray.data.Dataset, config: Config) -> ray.ObjectRef:
    """A reference to the OverlapIndex of the ok rows' `messages` (of a holdout, an evaluation set); one Ray task."""
    build = ray.remote(_build_index).options(num_cpus=config.resources.stage_cpus)
    blocks = rows.select_columns(["messages", "status"]).to_arrow_refs()
    found: ray.ObjectRef = build.remote(config.filter.ngram, config.filter.near_duplicate, *blocks)
    return found


def mark_overlaps(rows: ray.data.Dataset, overlaps: Mapping[str, ray.ObjectRef], config: Config) -> ray.data.Dataset:
    """`rows` with what overlaps an index marked `overlap_NAME: KIND`; NAME is its key, `holdout` or `evaluation`.

    For any rows with `messages`, `status` and `reason`: the seed data against the holdout as well.
    """
    return _mapped(rows, functools.partial(_mark_overlaps, overlaps=dict(overlaps)), config)


def filter_generated(
    rows: ray.data.Dataset,
    config: Config,
    overlaps: Mapping[str, ray.ObjectRef],
    work_dir: str,
    earlier: Sequence[str],
) -> ray.data.Dataset:
    """All filters of a round's generated rows; every row comes out, those not of status ok untouched.

    `rows` need `draw_id`, `round`, `instruction_id`, `messages`, `task`, `status` and `reason`. With the classifier's
    columns `task_predicted` and `task_prob` the task is checked. `work_dir` receives the bands of the rows that pass
    the other filters; `earlier` are the folders of the seed data and of earlier rounds. Of two duplicates the one of
    lower (round, draw id) stays. Runs at once up to the join, with the rows in the object store, so that a filter sees
    each row once. Raises InputError for an unknown function.
    """
    checked = check_rows(rows, config)
    ordered = _mapped(mark_overlaps(checked, overlaps, config), with_order, config).materialize()
    marked = near_duplicates.mark_near_duplicates(
        ordered, work_dir, earlier, config.filter.near_duplicate, config.resources.stage_cpus
    )
    return marked.drop_columns(["order"])


def mark_repeats(rows: ray.data.Dataset, config: Config, work_dir: str) -> ray.data.Dataset:
    """Instruction rows (which must be stored) with those filtered that are like one of a lower id; all else stays.

    `work_dir` receives the bands. Runs at once up to the join.
    """
    ordered = _mapped(rows, with_order, config)
    marked = near_duplicates.mark_near_duplicates(
        ordered, work_dir, [], config.filter.near_duplicate, config.resources.stage_cpus
    )
    return marked.drop_columns(["order"])


def seed_bands(rows: ray.data.Dataset, config: Config, out_dir: str) -> str:
    """Writes the bands of instruction rows (the seed data), which come before every round; returns `out_dir`."""
    ordered = _mapped(rows.select_columns(["instruction_id", "messages", "status"]), with_order, config)
    return near_duplicates.bands(ordered, out_dir, config.filter.near_duplicate, config.resources.stage_cpus)


def check_rows(rows: ray.data.Dataset, config: Config) -> ray.data.Dataset:
    """The filters that look at one row alone."""
    functions = {spec: resolve(spec, {}, what="filter.functions") for spec in config.filter.functions}
    return _mapped(rows, functools.partial(check_table, config=config, functions=functions), config)


def with_order(rows: pa.Table) -> pa.Table:
    """`rows` with the unique string `order`: round and draw id; rows without a draw id, the seed data, come first."""
    if "draw_id" not in rows.column_names:
        return rows.append_column("order", pc.binary_join_element_wise("0000", rows["instruction_id"], "-"))
    number = pc.utf8_lpad(rows["round"].cast(pa.string()), 4, "0")
    return rows.append_column("order", pc.binary_join_element_wise(number, rows["draw_id"], "-"))


def check_table(rows: pa.Table, config: Config, functions: Mapping[str, RowFilter]) -> pa.Table:
    """A table with the rows that fail a filter of their own marked."""
    leaks = prompt_lines(Prompts(config.prompts.dir))
    reasons: list[str | None] = [None] * len(rows)
    for index, row in enumerate(rows.to_pylist()):
        if row["status"] == OK:
            reasons[index] = _reason(row, config, leaks) or next(
                (reason for function in functions.values() if (reason := function(row))), None
            )
    return _marked(rows, reasons)


def prompt_lines(prompts: Prompts) -> list[str]:
    """The fixed parts of the expansion prompt's lines that give it away, lower-case."""
    lines = prompts.render("expand", task="\0", instruction="\0", text_id="\0").lower().splitlines()
    return [part.strip() for line in lines for part in line.split("\0") if len(part.strip()) >= LEAK_CHARS]


def _reason(row: Mapping[str, Any], config: Config, leaks: Sequence[str]) -> str | None:
    messages = row["messages"] or []
    if not messages or not all(message["content"].strip() for message in messages if message["role"] == "user"):
        return "empty"
    text = text_of(messages)
    if len(text) > config.filter.max_chars:
        return "over_long"
    lowered = text.lower()
    if "new_instruction>" in lowered or any(line in lowered for line in leaks):
        return "prompt_leakage"
    predicted = row.get("task_predicted")
    sure = (row.get("task_prob") or 0.0) >= config.classify.min_task_prob
    if config.filter.other_task and predicted is not None and predicted != row["task"] and sure:
        return f"other_task: {predicted}"
    return None


def _mark_overlaps(rows: pa.Table, overlaps: Mapping[str, ray.ObjectRef]) -> pa.Table:
    for name, reference in overlaps.items():
        index: OverlapIndex = ray.get(reference)
        is_ok = pc.equal(rows["status"], OK).to_numpy()
        kinds = iter(index.overlaps(rows["messages"].filter(pa.array(is_ok)).to_pylist()))
        reasons = [f"overlap_{name}: {kind}" if ok and (kind := next(kinds)) else None for ok in is_ok]
        rows = _marked(rows, reasons)
    return rows


def _build_index(ngram: int, threshold: float, *blocks: pa.Table) -> OverlapIndex:
    kept = [block.filter(pc.equal(block["status"], OK)) for block in blocks if len(block)]
    return OverlapIndex.build((one for block in kept for one in block["messages"].to_pylist()), ngram, threshold)


def _marked(rows: pa.Table, reasons: list[str | None]) -> pa.Table:
    reason = pa.array(reasons, pa.string())
    return replace_status(rows, pc.is_valid(reason), reason)


def _mapped(rows: ray.data.Dataset, function: Callable[[pa.Table], pa.Table], config: Config) -> ray.data.Dataset:
    return rows.map_batches(function, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.stage_cpus)
