"""Where the tables and models of a run lie inside its folder."""

from __future__ import annotations

LABELLED, REGENERATED = "labelled", "regenerated"
"""Tables of each shard of a regeneration."""
DATASET, DATASET_ROWS = "dataset", "dataset/data"
"""What a regeneration leaves: the folder with the card, and its Parquet files."""


def round_dir(round_number: int) -> str:
    """Folder of a round inside the run; round 0 is the seed data and the initial SFT."""
    return "seed" if round_number == 0 else f"rounds/{round_number:02d}"


def checkpoint(round_number: int) -> str:
    """Folder of the student after a round."""
    return f"checkpoints/{round_number:02d}"
