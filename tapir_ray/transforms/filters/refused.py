"""`refused`: an answer that only says that the teacher will not answer."""

from __future__ import annotations

from typing import ClassVar

from tapir_ray.curriculum.tasks import TOXICITY
from tapir_ray.llm.client.refusals import is_refusal
from tapir_ray.llm.client.reply import REFUSED
from tapir_ray.transforms.filters.base import AFTER, Row, RowFilter


class Refused(RowFilter):
    """Filters answers that are refusals by their text, which a student must not learn as answers.

    To the task Toxicity a refusal is an answer: its style is to decline.
    """

    reasons: ClassVar = {REFUSED: "the teacher refuses to answer: look at the instructions, or take another teacher"}
    when = AFTER
    of_drafts = True

    def reason(self, row: Row) -> str | None:
        return REFUSED if row["task"] != TOXICITY and is_refusal(row["response"] or "") else None
