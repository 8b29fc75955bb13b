"""Length-controlled win rate of AlpacaEval 2.0: the win rate as if both models wrote answers of the same length.

    why_not(annotations)                                   # None if the rate is valid for them
    length_controlled(annotations, "df_gamed.csv")         # 5.875, its standard error

Y. Dubois et al., Length-Controlled AlpacaEval, arXiv:2404.04475: a logistic regression of the preferences on the
difference of lengths and on a difficulty of each instruction, with a penalty towards two baselines that were told to
answer at length or briefly. The package alpaca-eval fits it. Its difficulties and the preferences of these baselines
are the file `df_gamed.csv` of the hub's data set tatsu-lab/alpaca_eval, which the package downloads and which is read
here from a path. The file knows an instruction by its position alone, so the rate is only valid for AlpacaEval's 805
instructions in their order, answered by the baseline and judged by the evaluator that the file was made with.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.evaluate.alpaca_eval_annotations import read_annotations, read_preference

INSTRUCTIONS, DIGEST = 805, "bfe8c45991f635de0b1f94abeeb1335ef665d58eddd87ddf6fa71b7b0c2ce7a5"
"""Number of AlpacaEval's instructions, and the SHA-256 of their texts in order, with zero bytes between them."""
BASELINE, EVALUATOR, JUDGE = "gpt4_1106_preview", "weighted_alpaca_eval_gpt4_turbo", "gpt-4-1106-preview"
MODEL = "length_controlled_v1"
"""Regression of the leaderboard."""
NOT_INSTALLED = "the length-controlled win rate needs the package alpaca-eval: pip install 'tapir-ray[alpaca-eval]'"
COLUMNS = ("index", "instruction_difficulty", "preference", "std_delta_len", "not_gamed_baseline")
"""Columns of `df_gamed.csv` that the regression reads."""


def why_not(annotations: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns the reason why a length-controlled rate would be invalid; None if it is valid.

    Annotations have `instruction`, `generator_1`, `annotator`, `output_1`, `output_2` and `preference`.
    """
    if (other := why_not_items([str(row.get("instruction")) for row in annotations])) is not None:
        return other
    for name, needed in (("generator_1", BASELINE), ("annotator", EVALUATOR)):
        if others := sorted({str(row.get(name)) for row in annotations} - {needed}):
            return f"{name} is {others[0]}, and only {needed} has the difficulties it needs"
    if any(not isinstance(row.get(name), str) for row in annotations for name in ("output_1", "output_2")):
        return "an annotation lacks output_1 or output_2, whose lengths it needs"
    return None


def why_not_items(instructions: Sequence[str]) -> str | None:
    """Returns the reason why these instructions have no known difficulties; None for AlpacaEval's own, in order."""
    if len(instructions) != INSTRUCTIONS:
        return f"it needs all {INSTRUCTIONS} instructions of AlpacaEval, and there are {len(instructions)}"
    if hashlib.sha256("\0".join(instructions).encode("utf-8", "surrogatepass")).hexdigest() != DIGEST:
        return f"the instructions are not AlpacaEval's {INSTRUCTIONS} in their order"
    return None


def controlled_rate(path: str, gamed: str) -> tuple[float, float]:
    """Returns (length-controlled win rate, its standard error) in percent of a file of annotations.

    Raises InputError for a file that cannot be read, for annotations for which the rate is invalid, and as
    `length_controlled` does.
    """
    annotations = read_annotations(path)
    if (reason := why_not([row if isinstance(row, dict) else {} for row in annotations])) is not None:
        raise InputError(f"annotations {path}: the length-controlled win rate would be invalid: {reason}")
    return length_controlled(annotations, gamed)


def check(gamed: str) -> None:
    """Raises InputError without the package, and for a file that is not its `df_gamed.csv`."""
    if find_spec("alpaca_eval") is None:
        raise InputError(NOT_INSTALLED)
    _gamed(gamed)


def length_controlled(annotations: Sequence[Mapping[str, Any]], gamed: str) -> tuple[float, float]:
    """Returns (length-controlled win rate, its standard error) in percent, for annotations that `why_not` accepts.

    An annotation without a preference is predicted, and not fitted. Raises InputError without the package, and for a
    file `gamed` that is not the package's `df_gamed.csv`.
    """
    import pandas as pd

    before, difficulty = _gamed(gamed)
    longer = pd.Series([len(row["output_1"]) - len(row["output_2"]) for row in annotations], dtype=float)
    own = pd.DataFrame(
        {
            "index": range(INSTRUCTIONS),
            "preference": [_won(row) for row in annotations],
            "std_delta_len": longer / longer.std(),
            "instruction_difficulty": difficulty.to_numpy(),
            "not_gamed_baseline": True,
        }
    )
    fitted_on = pd.concat([before, own], axis=0)
    with package_quietly() as glm:
        told = glm.GLM_INFO[MODEL]
        design, wanted = glm.make_dmatrix_for_model(fitted_on, own.assign(std_delta_len=0), formula=told["formula"])
        # The two baselines share the weight of the penalty.
        penalty = told["regularize_to_baseline_lambda"] / 2
        weight = fitted_on["not_gamed_baseline"].map({True: 1.0, False: penalty}).astype(float)
        known = design["preference"].notna()
        model = glm.fit_LogisticRegressionCV(
            design[known], "preference", is_ytrue_proba=True, sample_weight=weight[known], **told["kwargs"]
        )
    predicted = pd.Series(model.predict_proba(wanted)[:, 1])
    return float(100 * predicted.mean()), float(100 * predicted.sem())


def _won(row: Mapping[str, Any]) -> float | None:
    preference, _ = read_preference(row)
    return None if preference is None else preference - 1


def _gamed(path: str) -> tuple[Any, Any]:
    """Returns (table of the two baselines, difficulties by position) of the package's file."""
    import pandas as pd

    where = f"evaluate.alpaca_eval.length_control {path}"
    try:
        found = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{where} cannot be read: {one_line(error)}") from error
    if missing := [name for name in COLUMNS if name not in found.columns]:
        raise InputError(
            f"{where} lacks the column {missing[0]}: give df_gamed.csv of the hub's data set tatsu-lab/alpaca_eval"
        )
    # As the package: by the number of the row in the table, in which every instruction's first row counts.
    difficulty = found.drop_duplicates("index")["instruction_difficulty"].reindex(range(INSTRUCTIONS))
    if lacking := int(difficulty.isna().sum()):
        raise InputError(f"{where} lacks the difficulty of {lacking} instructions: is it the package's df_gamed.csv?")
    return found[list(COLUMNS)], difficulty


@contextmanager
def package_quietly() -> Iterator[Any]:
    """Yields the package's module of the regression. Raises InputError if the package is missing.

    Its import reads a file `.env` and changes the level of the root logger; neither outlives the block here.
    """
    root, disabled = logging.getLogger(), "PYTHON_DOTENV_DISABLED"
    level, before = root.level, os.environ.get(disabled)
    os.environ[disabled] = "1"
    try:
        try:
            from alpaca_eval.metrics import glm_winrate
        except ImportError as error:
            raise InputError(NOT_INSTALLED) from error
        root.setLevel(level)
        yield glm_winrate
    finally:
        root.setLevel(level)
        os.environ.pop(disabled)
        if before is not None:
            os.environ[disabled] = before
