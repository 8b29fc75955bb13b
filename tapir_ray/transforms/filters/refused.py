"""`refused`: an answer in which the teacher only declines to answer."""

from __future__ import annotations

from typing import ClassVar

from tapir_ray.curriculum.tasks import TOXICITY
from tapir_ray.llm.client.refusals import is_refusal
from tapir_ray.llm.client.reply import REFUSED
from tapir_ray.transforms.filters.base import AFTER, Row, RowFilter


class Refused(RowFilter):
    """Filters answers whose text is a refusal: a student must not learn to refuse.

    The task Toxicity is exempt: declining is the style of its answers.
    """

    reasons: ClassVar = {REFUSED: "the teacher refuses to answer: check the instructions, or use another teacher"}
    when = AFTER
    of_drafts = True

    def reason(self, row: Row) -> str | None:
        return REFUSED if row["task"] != TOXICITY and is_refusal(row["response"] or "") else None
