"""Dataset card of a regenerated dataset: `README.md` with the YAML front matter that the hub reads.

count = counts(run.manifest("seed/read").rows, manifests)
text = card(config, Report(count, held, usage, versions))
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tapir_ray.config import Config
from tapir_ray.config.price_source import priced_by
from tapir_ray.data.schemas import FAILED, FILTERED, OK
from tapir_ray.data.values import one_line
from tapir_ray.errors import StageError
from tapir_ray.run.manifest import Manifest

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B")
"""The hub's size categories, one a power of ten."""
TAG = "tapir-ray"
"""Tag of every card that the project writes."""


@dataclass(frozen=True)
class Counts:
    """Counts of the rows read, by status. `filtered` and `failed` are by reason; all counts sum to `rows`."""

    rows: int
    ok: int
    filtered: dict[str, int]
    failed: dict[str, int]


@dataclass(frozen=True)
class Report:
    """Numbers of the card."""

    counts: Counts
    held: Mapping[str, Mapping[str, int]]
    """By column, then by value: rows of the dataset."""
    usage: Mapping[str, Mapping[str, float]]
    """By role: requests, tokens and cost."""
    versions: Mapping[str, str]

    @property
    def cost(self) -> float:
        """Cost of all roles, in US dollars."""
        return round(sum(role["cost"] for role in self.usage.values()), 6)


def counts(rows: int, shards: Iterable[Manifest]) -> Counts:
    """Returns the counts of `rows` rows, from the manifests of all shards. Raises StageError if their sums differ."""
    statuses: Counter[str] = Counter()
    filtered: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for shard in shards:
        statuses.update(shard.statuses)
        filtered.update(shard.reasons)
        failed.update(shard.errors)
    sums = (statuses[OK] + filtered.total() + failed.total(), statuses.total())
    if sums != (rows, rows) or (statuses[FILTERED], statuses[FAILED]) != (filtered.total(), failed.total()):
        raise StageError(f"{rows} rows went in, {sums[0]} came out with a reason and {sums[1]} with a status")
    return Counts(rows, statuses[OK], dict(filtered.most_common()), dict(failed.most_common()))


def card(config: Config, report: Report) -> str:
    """Returns the text of `README.md`, for a folder with its rows in `data/`."""
    settings, found, listed = config.regenerate, report.counts, priced_by(config)
    assert settings is not None
    tags = ["instruction-tuning", *(["synthetic"] if report.held["teacher_model"] else [])]
    lines = [
        front_matter(config.name, config.seed_data.license, found.ok, tags, "data/*.parquet"),
        f"# {config.name}",
        f"{found.ok:,} instructions with their answers, regenerated from {found.rows:,} rows of "
        f"`{source_of(config)}` by tapir-ray: {', '.join(settings.operations)}.",
        "`messages` is the whole conversation; its last turn is the answer. If a row had two answers, `other_response` "
        "is the one left out: the source's, or the teacher's if `preferred` is `old`.",
        "## Rows",
        in_markdown(("rows", "number"), [("read", found.rows), ("in this dataset", found.ok), *left_out(found)]),
        *(
            f"## By {title}\n\n{in_markdown((title, 'rows'), sorted(values.items()))}"
            for title, values in _held(report)
        ),
        "## Made with",
        in_markdown(("package", "version"), report.versions.items()),
        f"Random seed {config.random_seed}; hash of the config {config.digest()}.",
        "## Cost",
        in_markdown(
            ("role", "requests", "input tokens", "output tokens", "US dollars"),
            [(role, *_used(used)) for role, used in report.usage.items()],
        ),
        f"{report.cost:,.4f} US dollars in all{'' if listed is None else f'; {listed}'}.",
    ]
    return "\n\n".join(lines) + "\n"


def summary(config: Config, report: Report, shards: int, dataset: str) -> dict[str, Any]:
    """Returns the content of `summary.json` for a finished regeneration; `dataset` is the URI of its folder."""
    assert config.regenerate is not None
    return {
        "name": config.name,
        "status": "done",
        "random_seed": config.random_seed,
        "operations": list(config.regenerate.operations),
        "shards": shards,
        **report.counts.__dict__,
        "by": {column: dict(values) for column, values in report.held.items()},
        "usage": report.usage,
        "cost": report.cost,
        "versions": report.versions,
        "dataset": dataset,
    }


def front_matter(name: str, license: str | None, rows: int, tags: Sequence[str], files: str | None) -> str:
    """Returns the YAML block for the hub; `files` is the pattern of the data files, None for a saved HF dataset."""
    front: dict[str, Any] = {
        "pretty_name": name,
        **({"license": license} if license else {}),
        "task_categories": ["text-generation"],
        "size_categories": [size_category(rows)],
        "tags": [*tags, TAG],
    }
    if files is not None:
        front["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}]
    return yaml_block(front)


def yaml_block(front: Mapping[str, Any]) -> str:
    """Returns the front matter of a card."""
    return f"---\n{yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)}---"


def size_category(rows: int) -> str:
    """Returns the hub's category of a number of rows: `size_category(2_000)  # "1K<n<10K"`."""
    return SIZES[min(len(SIZES) - 1, max(0, len(str(rows)) - 3))]


def source_of(config: Config) -> str:
    """Returns the id of a hub dataset, or the file name of a local path: a card must not publish local folders."""
    path = (config.seed_data.path or config.name).partition("?")[0].rstrip("/")
    return path if path.count("/") == 1 and not path.startswith("/") else path.rpartition("/")[2]


def left_out(found: Counts) -> list[tuple[str, int]]:
    reasons = [(f"filtered: {reason}", count) for reason, count in found.filtered.items()]
    return reasons + [(f"failed: {reason}", count) for reason, count in found.failed.items()]


def _held(report: Report) -> list[tuple[str, Mapping[str, int]]]:
    titles = {"task": "task", "preferred": "preferred answer", "teacher_model": "teacher of the answer"}
    return [(title, report.held[column]) for column, title in titles.items() if report.held[column]]


def _used(used: Mapping[str, float]) -> tuple[str, ...]:
    tokens = (f"{used[name]:,.0f}" for name in ("requests", "input_tokens", "output_tokens"))
    return (*tokens, f"{used['cost']:,.4f}")


def in_markdown(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Returns a Markdown table; texts of users' rows cannot become markup."""
    shown = [[f"{cell:,}" if isinstance(cell, int) else plain_cell(str(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *shown])


def plain_cell(text: str) -> str:
    """Escapes text of a user's rows for Markdown: a task named `<b>` or `a|b` must not become markup."""
    return html.escape(one_line(text), quote=False).replace("|", "\\|").replace("`", "\\`").replace("[", "\\[")
