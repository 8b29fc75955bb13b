"""Marks styled answers in their instruction (`rewrite.mark`): the style follows the last user turn after a blank line.

    rows = mark_style(rows)
    # "Add 2 and 3."  →  "Add 2 and 3.\n\nWork step by step, and end with the result."

So the prompt tells the student whether a plain or a styled answer is wanted. MinT (arXiv 2307.07951) marks annotation
styles in the instruction. Only training rows are marked: all else uses the instruction alone.
"""

from __future__ import annotations

import pyarrow as pa

from tapir_ray.data.schemas import MESSAGES, Message, with_columns


def marked_turns(messages: list[Message], style: str) -> list[Message]:
    """Returns the turns with the style after the last user turn; unchanged without a user turn."""
    places = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not places:
        return messages
    last = messages[places[-1]]
    marked = {**last, "content": f"{last['content']}\n\n{style}"}
    return [*messages[: places[-1]], marked, *messages[places[-1] + 1 :]]


def mark_style(rows: pa.Table) -> pa.Table:
    """Returns the rows with `messages` marked by their `style`; rows without a style or messages pass unchanged."""
    if "style" not in rows.column_names:  # a table of the user's, or of an older version
        return rows
    pairs = zip(rows["messages"].to_pylist(), rows["style"].to_pylist(), strict=True)
    marked = [marked_turns(turns, style) if turns and style else turns for turns, style in pairs]
    return with_columns(rows, messages=pa.array(marked, MESSAGES))
