"""What follows from what in a run, over the layout of its method.

stale = following([layout.round(1).scored], layout)               # what must be made again
stale = following(changed_by(["judge.mode"], layout), layout)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tapir_ray.config import Config
from tapir_ray.config.keys import invalidated_by
from tapir_ray.run.layout import Layout, Table


def following(changed: Collection[Table], layout: Layout) -> list[Table]:
    """The changed outputs and all that is made from them, in the order in which they are made."""
    stale: list[Table] = []
    for table in layout.all():
        if table in changed or any(one in stale for one in table.inputs):
            stale.append(table)
    return stale


def changed_by(keys: Iterable[str], layout: Layout) -> set[Table]:
    """The outputs that the values of these config keys (`a.b.c`) enter directly, as the keys' fields declare them."""
    return {table for key in keys for name in invalidated_by(key, Config) for table in layout.named(name)}
