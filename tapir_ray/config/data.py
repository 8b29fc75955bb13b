"""Settings of the seed data, its holdout, and the simulator that can replace data and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tapir_ray.config.section import Count, Section, Share, key


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str] | None, BeforeValidator(_listed)]
"""One column, or several; an empty list reads none."""
ONE_COLUMN = ("messages", "system", "history", "choices", "response", "reasoning")


class Columns(Section):
    """Columns of the seed file, by role. A role that is left out reads the usual names (docs/data.md)."""

    messages: Names = None
    """The whole conversation: a list of turns."""
    system: Names = None
    history: Names = None
    """Earlier turns: pairs of a question and an answer, or turns."""
    prompt: Names = None
    """Several are joined in this order by a blank line."""
    context: Names = None
    """Texts that follow the prompt after a blank line."""
    choices: Names = None
    response: Names = None
    """The answer; an empty list reads none."""
    reasoning: Names = None
    """Thoughts before the answer, stored in the column `reasoning`."""
    meta: Names = None
    """Columns to keep in `meta` without a note about them."""

    @model_validator(mode="after")
    def _distinct(self) -> Columns:
        found: dict[str, str] = {}
        for role, names in self.given.items():
            if role in ONE_COLUMN and len(names) > 1:
                raise ValueError(f"seed_data.columns.{role} names several columns; give one")
            for name in names:
                if name in found:
                    raise ValueError(f"seed_data.columns names {name} as {found[name]} and as {role}")
                found[name] = role
        if self.messages and (
            others := [role for role in ("prompt", "context", "choices", "history") if self.given.get(role)]
        ):
            raise ValueError(
                f"seed_data.columns.messages is the whole conversation; leave out seed_data.columns.{others[0]}"
            )
        return self

    @property
    def given(self) -> dict[str, list[str]]:
        """Columns by role, for the roles that are set."""
        return {role: names for role in type(self).model_fields if (names := getattr(self, role)) is not None}


class SeedData(Section):
    """Source of the seed rows."""

    path: str | None = None
    """File, folder, URI or Hugging Face hub id; required unless `simulator.seed_rows` writes the seed data."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    split: str | None = None
    """Split to read; `null` is `train`. CONFIG/SPLIT for a hub id with several configurations. A test or validation
    split is read only if it is named here."""
    format: Literal["auto", "alpaca", "messages", "sharegpt", "prompt", "parquet", "hf"] = "auto"
    limit: Count | None = None
    """Rows to read, in file order; the `recorded` simulator serves the rows beyond."""
    responses: Literal["keep", "fill", "replace"] = "keep"
    turns: Literal["last", "all"] = "last"
    task_column: str | None = None
    columns: Columns = Columns()
    """Column names of your file: `{prompt: …, context: …, response: …}`."""
    license: str | None = None
    skip_malformed: bool = False
    """`true`: a malformed row is filtered, with its line in the reason. `false`: it ends the run with exit 2."""

    @property
    def mapped(self) -> Mapping[str, Sequence[str]]:
        """Columns that the config names, by role. `task_column` counts as `meta`, so no usual name reads it too."""
        given = self.columns.given
        named = {name for names in given.values() for name in names}
        tasks = [self.task_column] if self.task_column is not None and self.task_column not in named else []
        return {**given, "meta": [*given.get("meta", []), *tasks]}


class Holdout(Section):
    """Rows split off by hash before anything else, to measure students on."""

    rows: Annotated[int, Field(ge=0)] = 400
    max_share: Share = 0.2
    """At most this share of the seed data (of each stratum) is held out."""
    stratify_by: list[str] = Field(default_factory=list)
    """Columns of the seed file; each combination of their values gives the same number of rows."""
    select_share: Annotated[float, Field(ge=0, lt=1)] = key(0.5, invalidates=("summary",))
    """Share of the holdout whose scores choose the best round; the scores of the rest are reported. 0: the last round
    is the result."""


TASKS, RECORDED = "tasks", "recorded"
"""Scenarios of the simulator."""


Family = Literal[
    "arithmetic", "ordering", "code_writing", "code_repair", "exact_format", "grammar", "paraphrase", "counterfactual",
    "common_sense", "writing",
]  # fmt: skip
"""Families of the scenario `tasks`."""


class Simulator(Section):
    """Simulated teacher and judge that the run starts on loopback (`tapir simulate` starts one by hand)."""

    scenario: str = TASKS
    """`tasks`, or `recorded`: the rows of `seed_data.path` beyond `seed_data.limit`."""
    path: str | None = None
    """`recorded`: another file of pairs."""
    seed_rows: Annotated[int, Field(ge=0)] = 0
    """`tasks`: number of seed rows, skewed over tasks, to write into the run and use as seed data."""
    seed_families: list[Family] = Field(default_factory=list)
    """`tasks`: families of these seed rows, such as `arithmetic`, at equal shares and levels; `[]`: all, skewed."""
    seed_error_rate: Share = 0.0
    """`tasks`: share of these seed rows with a wrong answer. The column `wrong` says which."""
    teacher_error_rate: Share = key(0.0, invalidates=("answers", "generated"))
    """`tasks`: share of the instructions that the teacher answers wrongly, each time."""
    revision_error_rate: Share = key(0.0, invalidates=("annotated",))
    """`tasks`: share of the revisions (`method: elad`) that correct the student's steps wrongly."""
    latency_s: Annotated[float, Field(ge=0)] = key(0.0, invalidates=())
    judge_noise: Annotated[float, Field(ge=0)] = 0.0
    position_bias: float = 0.0
    length_bias: float = 0.0
    error_rate: Share = key(0.0, invalidates=())
    """Share of requests that get a 429, 500 or 503, a dropped or hanging connection, or a broken reply."""
    max_requests_per_minute: Count | None = key(None, invalidates=())
    """Requests above this number in any 60 seconds get a 429."""
    log: str | None = key(None, invalidates=())
