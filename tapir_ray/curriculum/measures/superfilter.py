"""Superfiltering (arXiv 2402.00530): IFD as a ratio of perplexities, by a small model instead of the student.

ratio = PPL(A | Q) / PPL(A) = exp(s(A | Q) − s(A)), with s the mean loss of the response in nats per token
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from tapir_ray.curriculum.measures import measure
from tapir_ray.curriculum.measures.ifd import HIGHEST, without_misfits


@measure(losses=True, highest=HIGHEST)
def superfilter(rows: pa.Table) -> pa.Table:
    """Returns the rows with `difficulty` = exp(response_loss − response_loss_alone); null for a row without losses.

    Rows above 1 are filtered as `ifd_above_1`, and keep their difficulty.
    """
    return without_misfits(rows, pc.exp(pc.subtract(rows["response_loss"], rows["response_loss_alone"])))
