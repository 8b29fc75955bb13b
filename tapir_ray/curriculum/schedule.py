"""Challenge share α over rounds: the hard share of a training set.

alpha(2, first=0.3, step=0.2)  # 0.5
"""

from __future__ import annotations


def alpha(round_number: int, first: float, step: float) -> float:
    """Returns α_r = min(1, α_1 + (r − 1)·Δα) of TAPIR (arXiv 2405.13448); rounds count from 1.

    It is rounded to 12 digits, so that 0.1 + 0.2 is 0.3. Raises ValueError for a round below 1.
    """
    if round_number < 1:
        raise ValueError(f"rounds count from 1, not {round_number}")
    return min(1.0, round(first + (round_number - 1) * step, 12))
