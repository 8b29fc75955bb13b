"""Outputs that depend on a changed output or config key, by the layout of the method.

stale = following([layout.round(1).scored], layout)               # these outputs must be made again
stale = following(changed_by(["judge.mode"], layout), layout)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tapir_ray.config import Config
from tapir_ray.config.keys import invalidated_by
from tapir_ray.run.layout import Layout, Table


def following(changed: Collection[Table], layout: Layout) -> list[Table]:
    """Returns the changed outputs and all outputs that depend on them, in the order of their making."""
    stale: list[Table] = []
    for table in layout.all():
        if table in changed or any(one in stale for one in table.inputs):
            stale.append(table)
    return stale


def changed_by(keys: Iterable[str], layout: Layout) -> set[Table]:
    """Returns the outputs that directly depend on these config keys (`a.b.c`), as the config's fields declare."""
    return {table for key in keys for name in invalidated_by(key, Config) for table in layout.named(name)}
