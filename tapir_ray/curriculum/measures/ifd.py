"""IFD, the Instruction-Following Difficulty of Cherry LLM (arXiv 2308.12032, equation 3).

IFD = s(A | Q) / s(A): mean loss of the response given its conversation, divided by its mean loss alone. At 1 the
conversation does not help the model to predict the response.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.curriculum.measures import Column, measure
from tapir_ray.data.schemas import marked, with_columns

HIGHEST = 1.0
"""Responses above do not belong to their conversation: the source drops them."""
ABOVE = "ifd_above_1"
"""Reason of filtered rows."""


@measure(losses=True, highest=HIGHEST)
def ifd(rows: pa.Table) -> pa.Table:
    """Returns the rows with `difficulty` = response_loss / response_loss_alone; null for a row without losses.

    Rows above 1 are filtered as `ifd_above_1`, and keep their difficulty.
    """
    return without_misfits(rows, pc.divide(rows["response_loss"], rows["response_loss_alone"]))


def without_misfits(rows: pa.Table, ratio: Column) -> pa.Table:
    """Returns the rows with `ratio` as `difficulty`; those above 1 are filtered as `ifd_above_1`."""
    # A loss of 0 alone gives inf or NaN: such a response cannot be told from any other.
    ratio = pc.if_else(pc.is_finite(ratio), ratio, None)
    return marked(with_columns(rows, difficulty=ratio), pc.fill_null(pc.greater(ratio, HIGHEST), False), ABOVE)
