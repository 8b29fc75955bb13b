"""Outputs of a layout as text, by stage."""

from __future__ import annotations

import posixpath

from tapir_ray.run.layout import Layout


def tree(layout: Layout) -> str:
    """Returns the outputs by stage, one line each, such as `mix  rounds/01/{pool,training}`."""
    made: dict[str, dict[str, list[str]]] = {stage: {} for stage in [*layout.stages, ""]}
    for table in layout.all():
        made[table.stage].setdefault(posixpath.dirname(table.path), []).append(table.name)
    lines = []
    for stage, folders in made.items():
        paths = [posixpath.join(f, n[0] if len(n) == 1 else f"{{{','.join(n)}}}") for f, n in folders.items()]
        lines.append(f"{stage or 'when needed':11}  {'  '.join(paths)}")
    return "\n".join(lines)
