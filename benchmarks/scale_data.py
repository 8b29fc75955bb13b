"""Synthetic data of any number of rows, the same each time, for benchmarks/scale.py.

Texts have the costly properties of instructions: word frequencies of natural language, openings that thousands share,
and known shares of repeats and near-repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tapir_ray.data.schemas import (
    GENERATED,
    GENERATED_ROWS,
    HOLDOUT,
    MESSAGES,
    OK,
    SCORED,
    SEED,
    conform,
    instruction_id,
)

ROWS_PER_FILE = 25_000
VOCABULARY, OPENINGS = 30_000, 500
REPEATED, CHANGED, OPENED = 0.02, 0.05, 0.4
"""Shares of the texts that repeat an earlier one, that change a word of it, and that begin with a common opening."""
SHORTEST, LONGEST = 12, 40
"""Words of a text, not counting its opening."""
HELD_OUT = 0.001
RESPONSES = 5_000


def texts(rows: int, first: int = 0) -> Iterator[list[str]]:
    """Yields the texts from `first` on, file by file; repeats are within a file."""
    words = np.array([f"w{number:x}" for number in range(VOCABULARY)])
    rarity = 1 / np.arange(1, VOCABULARY + 1)
    share = np.cumsum(rarity / rarity.sum())
    openings = [" ".join(words[_drawn(np.random.default_rng([7, number]), share, 6)]) for number in range(OPENINGS)]
    for start in range(first, first + rows, ROWS_PER_FILE):
        generator = np.random.default_rng([11, start])
        count = min(ROWS_PER_FILE, first + rows - start)
        lengths = generator.integers(SHORTEST, LONGEST, count)
        ends = np.cumsum(lengths)
        drawn = words[_drawn(generator, share, int(ends[-1]))].tolist()
        kind = generator.random(count)
        made: list[str] = []
        for at, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
            own = drawn[end - length : end]
            if at and kind[at] < REPEATED + CHANGED:
                # At most half a file back, so that no chain of small changes gets long.
                earlier = made[int(generator.integers(0, max(1, at // 2)))]
                made.append(earlier if kind[at] < REPEATED else f"{earlier} {own[0]}")
            elif kind[at] > 1 - OPENED:
                made.append(f"{openings[int(generator.integers(0, OPENINGS))]} {' '.join(own)}")
            else:
                made.append(" ".join(own))
        yield made


def source(folder: Path, rows: int, tasks: Sequence[str], rows_per_file: int = ROWS_PER_FILE) -> None:
    """Writes the source of a dataset: Parquet files of instruction, output and task."""
    folder.mkdir(parents=True)
    for number, made in enumerate(texts(rows)):
        task = [tasks[at % len(tasks)] for at in range(len(made))]
        table = pa.table({"instruction": made, "output": ["as it was"] * len(made), "task": task})
        for at in range(0, len(table), rows_per_file):
            pq.write_table(table.slice(at, rows_per_file), folder / f"{number:05d}-{at:06d}.parquet")


def instructions(folder: Path, rows: int, first: int = 0) -> None:
    """Writes files with `instruction_id`, `messages`, `status` and `reason`, each id once."""
    folder.mkdir(parents=True)
    seen: set[str] = set()
    for number, made in enumerate(texts(rows, first)):
        messages = [[{"role": "user", "content": text}] for text in made]
        ids = [instruction_id(one) for one in messages]
        fresh = [at for at, row_id in enumerate(ids) if row_id not in seen and not seen.add(row_id)]  # type: ignore
        columns = {
            "instruction_id": pa.array([ids[at] for at in fresh]),
            "messages": pa.array([messages[at] for at in fresh], MESSAGES),
            "status": pa.array([OK] * len(fresh)),
            "reason": pa.nulls(len(fresh), pa.string()),
        }
        pq.write_table(pa.table(columns), folder / f"{number:05d}.parquet")


def scored(folder: Path, rows: int, tasks: Sequence[str]) -> None:
    """Writes a SCORED table: task shares skewed from 1 to 9, scores in halves, unique random ids."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, rows, 4 * ROWS_PER_FILE)):
        generator, count = np.random.default_rng([13, start]), min(4 * ROWS_PER_FILE, rows - start)
        weights = np.linspace(9, 1, len(tasks))
        teacher, student = generator.integers(8, 21, count) / 2, generator.integers(2, 17, count) / 2
        response = _responses().take(pa.array(generator.integers(0, RESPONSES, count)))
        columns = {
            "instruction_id": _ids(generator, count),
            "split": pa.array(np.where(generator.random(count) < HELD_OUT, HOLDOUT, SEED)),
            "messages": _conversations(response),
            "response": response,
            "task": pa.array(tasks).take(pa.array(generator.choice(len(tasks), count, p=weights / weights.sum()))),
            "status": pa.array([OK]).take(pa.array(np.zeros(count, np.int64))),
            "teacher_score": pa.array(teacher),
            "student_score": pa.array(student),
            "difficulty": pa.array(teacher - student),
            "position_gap": pa.array(generator.integers(0, 4, count) / 2),
            "repeat_mfd": pa.array(teacher - student + 0.5, mask=generator.random(count) > 0.05),
            "response_chars": pa.array(generator.integers(20, 900, count)),
            "student_response_chars": pa.array(generator.integers(20, 900, count)),
            "times_trained": pa.array(generator.integers(0, 2, count)),
        }
        pq.write_table(conform(pa.table(columns), SCORED), folder / f"{number:05d}.parquet")


def generated(folder: Path, rows: int, tasks: Sequence[str]) -> None:
    """Writes a file of a GENERATED_ROWS table."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(17)
    response = _responses().take(pa.array(generator.integers(0, RESPONSES, rows)))
    ids = _ids(generator, rows)
    columns = {
        "draw_id": ids,
        "instruction_id": ids,
        "split": pa.array([GENERATED] * rows),
        "messages": _conversations(response),
        "response": response,
        "task": pa.array(tasks).take(pa.array(generator.integers(0, len(tasks), rows))),
        "status": pa.array([OK] * rows),
    }
    pq.write_table(conform(pa.table(columns), GENERATED_ROWS), folder / "00000.parquet")


def _drawn(generator: np.random.Generator, share: np.ndarray, count: int) -> np.ndarray:
    return np.minimum(np.searchsorted(share, generator.random(count)), VOCABULARY - 1)


def _ids(generator: np.random.Generator, count: int) -> pa.StringArray:
    """Returns random ids of 32 hex digits."""
    digits = generator.bytes(16 * count).hex().encode()
    offsets = np.arange(0, 32 * count + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(digits))


def _responses() -> pa.Array:
    generator = np.random.default_rng(19)
    return pa.array([" ".join(["word"] * int(length)) for length in generator.integers(5, 40, RESPONSES)])


def _conversations(contents: pa.Array) -> pa.Array:
    """Returns conversations of one user message each."""
    role = pa.array(["user"]).take(pa.array(np.zeros(len(contents), np.int64)))
    turns = pa.StructArray.from_arrays([role, contents], fields=list(MESSAGES.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(len(contents) + 1, dtype=np.int32)), turns)
