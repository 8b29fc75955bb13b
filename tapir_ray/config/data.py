"""Where rows come from: the seed data, its holdout, and the simulator that can stand in for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tapir_ray.config.section import Count, Section, Share, key


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str] | None, BeforeValidator(_listed)]
"""A column, or several; an empty list says that there is none."""
ONE_COLUMN = ("messages", "system", "history", "choices", "response", "reasoning")


class Columns(Section):
    """Columns of the seed file by what they are; of what is left out the usual names are read (docs/data.md)."""

    messages: Names = None
    """The whole conversation: a list of turns."""
    system: Names = None
    history: Names = None
    """Earlier turns: pairs of a question and an answer, or turns."""
    prompt: Names = None
    """Several are one prompt, joined in this order by a blank line."""
    context: Names = None
    """Texts that follow the prompt after a blank line."""
    choices: Names = None
    response: Names = None
    """The answer; an empty list reads none."""
    reasoning: Names = None
    """Thoughts before the answer, which go to the column `reasoning`."""
    meta: Names = None
    """Columns that are kept in `meta` and that nothing is to be said about."""

    @model_validator(mode="after")
    def _distinct(self) -> Columns:
        found: dict[str, str] = {}
        for role, names in self.given.items():
            if role in ONE_COLUMN and len(names) > 1:
                raise ValueError(f"seed_data.columns.{role} names several columns; it can be one")
            for name in names:
                if name in found:
                    raise ValueError(f"seed_data.columns names {name} as {found[name]} and as {role}")
                found[name] = role
        if self.messages and (
            others := [role for role in ("prompt", "context", "choices", "history") if self.given.get(role)]
        ):
            raise ValueError(
                f"seed_data.columns.messages holds the whole conversation; leave out seed_data.columns.{others[0]}"
            )
        return self

    @property
    def given(self) -> dict[str, list[str]]:
        """The columns by role, for the roles that are set."""
        return {role: names for role in type(self).model_fields if (names := getattr(self, role)) is not None}


class SeedData(Section):
    """Where the seed instructions come from."""

    path: str | None = None
    """File, folder or HF hub id; may be left out only where `simulator.seed_rows` writes the seed data."""
    revision: str | None = None
    """Of a hub id: a branch, tag or commit."""
    split: str | None = None
    """The split that is read of a dataset or of a folder whose files are named by splits; CONFIG/SPLIT of a hub id with
    several configurations. Empty is `train`; a split for tests or validation is never taken unless it is named here."""
    format: Literal["auto", "alpaca", "messages", "sharegpt", "prompt", "parquet", "hf"] = "auto"
    limit: Count | None = None
    """Rows read, in file order; the `recorded` simulator serves the ones beyond."""
    responses: Literal["keep", "fill", "replace"] = "keep"
    turns: Literal["last", "all"] = "last"
    task_column: str | None = None
    columns: Columns = Columns()
    """Your own names of columns: `{prompt: …, context: …, response: …}`."""
    license: str | None = None
    skip_malformed: bool = False
    """A malformed row stops the run (default) or becomes a filtered row with the line in its reason."""

    @property
    def mapped(self) -> Mapping[str, Sequence[str]]:
        """The columns by role that the config names. The tasks' column is none that the usual names are read of."""
        given = self.columns.given
        named = {name for names in given.values() for name in names}
        tasks = [self.task_column] if self.task_column is not None and self.task_column not in named else []
        return {**given, "meta": [*given.get("meta", []), *tasks]}


class Holdout(Section):
    """Rows split off by hash before anything else; only they say what is better."""

    rows: Annotated[int, Field(ge=0)] = 400
    max_share: Share = 0.2
    """At most this share of the seed data (of each stratum) is held out."""
    stratify_by: list[str] = Field(default_factory=list)
    """Columns of the seed file; the holdout then takes equal numbers from each combination of their values."""
    select_share: Annotated[float, Field(ge=0, lt=1)] = key(0.5, invalidates=("summary",))
    """Share of the holdout whose scores choose the best round; the scores of the others are reported. 0: none choose,
    and the last round is the result."""


TASKS, RECORDED = "tasks", "recorded"
"""Scenarios of the simulator."""


class Simulator(Section):
    """A simulated teacher and judge that this run starts on loopback (`tapir simulate` starts one by hand)."""

    scenario: str = TASKS
    """`tasks`, or `recorded`: the rows of `seed_data.path` beyond `seed_data.limit`."""
    path: str | None = None
    """Another file of recorded pairs for `recorded`."""
    seed_rows: Annotated[int, Field(ge=0)] = 0
    """`tasks`: write this many skewed seed rows into the run and use them as seed data."""
    latency_s: Annotated[float, Field(ge=0)] = key(0.0, invalidates=())
    judge_noise: Annotated[float, Field(ge=0)] = 0.0
    position_bias: float = 0.0
    length_bias: float = 0.0
    error_rate: Share = key(0.0, invalidates=())
    """Share of the requests that meet an error: 429, 500, 503, a dropped or hanging connection, a broken reply."""
    max_requests_per_minute: Count | None = key(None, invalidates=())
    """What is above it in any 60 seconds is answered 429."""
    log: str | None = key(None, invalidates=())
