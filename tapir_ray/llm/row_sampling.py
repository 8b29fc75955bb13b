"""Sampling of a row's own, in place of the student's: some benchmarks set the temperature of each item.

schema = pa.schema([*SCORED, *ROW_SAMPLING])          # of a suite
sampling_of_row({"answer_temperature": 0.7, …}, student.sampling)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from tapir_ray.config import Sampling

TEMPERATURE, MAX_TOKENS = "answer_temperature", "answer_max_tokens"
ROW_SAMPLING = ((TEMPERATURE, pa.float64()), (MAX_TOKENS, pa.int64()))
"""Columns of a row's own sampling. Null, or no such column, is that of the student."""


PREFIX = "answer_prefix"
"""Column with the begin of the answer, which the engine continues. Null, or no such column, is none."""
PROMPT_TOKENS, ANSWER_TOKENS = "prompt_tokens", "answer_tokens"
"""Columns that an engine fills if the rows have them: tokens of the prompt, and those of the answer and all samples."""


def sampling_of_row(row: Mapping[str, Any], sampling: Sampling) -> Sampling:
    """Returns `sampling` with the temperature and the most tokens of the row, if it has its own."""
    own = {"temperature": row.get(TEMPERATURE), "max_tokens": row.get(MAX_TOKENS)}
    return sampling.model_copy(update={name: value for name, value in own.items() if value is not None})
