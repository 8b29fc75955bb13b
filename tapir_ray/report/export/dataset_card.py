"""Dataset card of an export: what its rows are, what was left out and why, licences, contamination, and how to load it.

The front matter, tables and names are those of the card of a regeneration (`steps/dataset_card.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tapir_ray.config import Config
from tapir_ray.report.export.formats import PREFERENCE, Format
from tapir_ray.report.export.rows import Counts
from tapir_ray.run.layout import Layout, LoopLayout, ShardLayout, Table
from tapir_ray.run.run import Run
from tapir_ray.run.versions import versions
from tapir_ray.steps import contamination_list
from tapir_ray.steps.dataset_card import front_matter, in_markdown, source_of

TERMS = (
    "The answers are the teacher's. Its provider's terms, or its model's licence, may limit what may be trained on "
    "them or published: check them before you pass the data on."
)
SEVERAL = "other"
"""The hub's name for a licence that is none of its own, as of rows with different ones."""
COLUMNS = {
    "alpaca": "`instruction` and `output`; earlier turns are in `system` and `history`, a list of pairs.",
    "openai": "`messages`, as OpenAI's fine-tuning takes them. An answer with `weight: 0` is context.",
    "sharegpt": "`conversations` with the turns `human` and `gpt`. An answer with `weight: 0` is context.",
    "parquet": "`messages` is the whole conversation. `masked_turns` has the positions of answers that are context.",
    "hf": "`messages` is the whole conversation. `masked_turns` has the positions of answers that are context.",
    PREFERENCE: (
        "`prompt`, `chosen` and `rejected` are lists of turns. One answer is the teacher's and one the student's at "
        "that round (`chosen_by`); the scores are the judge's, 1 to 10, averaged over both orders of the answers. Only "
        "pairs that both orders decide alike are here, and those of a verifier (`scored_by`)."
    ),
}


@dataclass(frozen=True)
class Made:
    """Content of an export: its tables, its format and the counts of their rows."""

    tables: tuple[str, ...]
    format: str
    counts: Counts

    def as_json(self) -> dict[str, Any]:
        """Returns the counts as JSON values."""
        counts = self.counts
        return {
            "format": self.format,
            "tables": dict(counts.read),
            "rows": counts.exported,
            "left_out": counts.reasons,
            "by": {column: dict(values) for column, values in counts.held.items()},
        }


def card(run: Run, config: Config, layout: Layout, format: Format, made: Made) -> str:
    """Returns the text of `README.md` for the folder of an export."""
    counts, held = made.counts, made.counts.held
    kind = "preference pairs" if format.name == PREFERENCE else "instructions with their answers"
    tags = ["preference" if format.name == PREFERENCE else "instruction-tuning"]
    tags += ["synthetic"] if held["teacher_model"] else []
    lines = [
        front_matter(config.name, license_of(config, held["license"]), counts.exported, tags, format.files),
        f"# {config.name}",
        f"{counts.exported:,} {kind}, exported by tapir-ray as `{format.name}` from the run `{config.name}`, whose "
        f"seed data is `{source_of(config)}`.",
        COLUMNS[format.name],
        *(["Load it with `datasets.load_from_disk(FOLDER)`."] if format.files is None else []),
        "## Rows",
        in_markdown(("rows", "number"), [*_read(counts), *_left(counts.reasons), ("in this dataset", counts.exported)]),
        *_before(run, layout),
        *(f"## By {title}\n\n{in_markdown((title, 'rows'), sorted(values.items()))}" for title, values in _held(held)),
        "## Contamination",
        contamination(run, layout),
        "## Terms",
        TERMS if held["teacher_model"] or not isinstance(layout, LoopLayout) else _terms_of_seed(config),
        "## Made with",
        in_markdown(("package", "version"), versions().items()),
        f"Random seed {config.random_seed}; hash of the config {config.digest()}.",
    ]
    return "\n\n".join(lines) + "\n"


def license_of(config: Config, held: Counter[str]) -> str | None:
    """Returns the licence for the front matter; `other` if the rows have several."""
    found = set(held) | ({config.seed_data.license} if config.seed_data.license else set())
    return SEVERAL if len(found) > 1 else next(iter(found), None)


def contamination(run: Run, layout: Layout) -> str:
    """Returns a table of the contaminated rows that were found and left out, by table, set and rule."""
    lists = [layout.contamination, *(layout.named("contamination"))]
    found = [
        (table.path, by, rule, count)
        for table in dict.fromkeys(lists)
        for by, rules in contamination_list.counts(run, table).items()
        for rule, count in rules.items()
    ]
    if not found:
        return "No row that was compared with the holdout and the evaluation sets of the run overlaps with them."
    said = "Rows that overlap with the holdout or an evaluation set of the run. None of them was trained on."
    return f"{said}\n\n{in_markdown(('table', 'overlaps with', 'rule', 'rows'), found)}"


def _read(counts: Counts) -> list[tuple[str, int]]:
    return [(f"read from {table}", count) for table, count in counts.read.items()]


def _left(reasons: dict[str, int]) -> list[tuple[str, int]]:
    return [(f"left out: {reason}", count) for reason, count in reasons.items()]


def _held(held: dict[str, Counter[str]]) -> list[tuple[str, Counter[str]]]:
    titles = {"task": "task", "license": "licence", "teacher_model": "teacher of the answer"}
    return [(title, held[column]) for column, title in titles.items() if held[column]]


def _before(run: Run, layout: Layout) -> list[str]:
    """Returns the section with the rows that the run itself has dropped on the way to these tables, by reason."""
    if isinstance(layout, ShardLayout):
        return []
    dropped = [
        (table.path, f"{status}: {reason}", count)
        for table in _sources(run, layout)
        for status, reasons in (("filtered", run.manifest(table).reasons), ("failed", run.manifest(table).errors))
        for reason, count in reasons.items()
    ]
    if not dropped:
        return []
    return ["## Dropped by the run", in_markdown(("table", "reason", "rows"), dropped)]


def _sources(run: Run, layout: Layout) -> list[Table]:
    """Returns the finished tables whose ok rows are trained on: the seed data and every round's generated rows."""
    if not isinstance(layout, LoopLayout):
        return []
    found = [layout.ingested, *(one.written for one in layout.rounds)]
    return [table for table in found if run.done(table)]


def _terms_of_seed(config: Config) -> str:
    held = config.seed_data.license
    known = f"Their licence is `{held}`, by `seed_data.license`." if held else "The run knows no licence of them."
    return f"The rows are those of the seed data. {known}"
