"""`no_response`: a seed row without an answer, if `seed_data.responses` is `keep`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from tapir_ray.config import Config
from tapir_ray.data.schemas import marked
from tapir_ray.transforms.filters.base import READING, Compared, TableFilter, mapped


class NoResponse(TableFilter):
    """Filters rows whose `response` is null."""

    reasons: ClassVar = {"no_response": "set seed_data.responses: fill to have the teacher write the missing answers"}
    keys = ("seed_data.responses",)
    when = READING

    @classmethod
    def of(cls, config: Config) -> Sequence[Self]:
        return [cls()] if config.seed_data.responses == "keep" else []

    def mark(self, rows: ray.data.Dataset, config: Config, compared: Compared) -> ray.data.Dataset:
        return mapped(rows, _without_response, config)


def _without_response(batch: pa.Table) -> pa.Table:
    return marked(batch, pc.is_null(batch["response"]), "no_response")
