"""Words of the judge about a row, from the run's response cache: the tables keep the scores alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pyarrow.fs as pafs

from tapir_ray.data.schemas import JUDGE
from tapir_ray.data.storage import Storage
from tapir_ray.errors import TapirError
from tapir_ray.llm.client.cache_dirs import ReplyFolders
from tapir_ray.llm.client.recorded import Recorded
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.engine.base import Setting
from tapir_ray.llm.engine.registry import engine_class
from tapir_ray.llm.roles import scope_of
from tapir_ray.report.html.view import View
from tapir_ray.steps.context import PLAIN_TEXT
from tapir_ray.transforms.judge import JudgeRow
from tapir_ray.transforms.judge_request import NotJudged

MOST_CACHE_BYTES = 256 * 1024**2
"""Largest cache that is read for the words of some rows."""
Judged: TypeAlias = Sequence[tuple[str, str]]
"""(name of the order, words) of each reply."""
PAIRWISE = ("judge, teacher's answer first", "judge, student's answer first")
POINTWISE = ("judge on the teacher's answer", "judge on the student's answer")


def judge_words(view: View, rows: Sequence[dict[str, Any]], notes: list[str]) -> dict[str, Judged]:
    """Returns the judge's replies about scored rows, by `instruction_id`; adds to `notes` why some are missing."""
    judged = [row for row in rows if row.get("scored_by") == JUDGE]
    if not judged:
        return {}
    folder = ReplyFolders(view.config.cache, view.run.uri).cache
    if folder is None or not (size := _bytes_in(folder)):
        notes.append("The judge's words are not shown: the run keeps no cache of replies (cache.enabled).")
        return {}
    if size > MOST_CACHE_BYTES:
        notes.append(f"The judge's words are not shown: the cache of replies has {size / 1e6:,.0f} MB.")
        return {}
    try:
        # In a thread of its own: a notebook has an event loop already.
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(asyncio.run, _asked(view, judged, folder)).result()
    except (TapirError, OSError) as error:
        notes.append(f"The judge's words are not shown: {error}")
        return {}
    if missing := len({row["instruction_id"] for row in judged}) - len(found):
        notes.append(f"The judge's words about {missing} of these rows are not in the cache of replies.")
    return found


def _bytes_in(folder: str) -> int:
    storage = Storage.at(folder)
    found = storage.fs.get_file_info(pafs.FileSelector(storage.root, allow_not_found=True))
    return sum(info.size or 0 for info in found)


async def _asked(view: View, rows: Sequence[dict[str, Any]], folder: str) -> dict[str, Judged]:
    config = view.config
    endpoint = config.judge_endpoint
    group = "teacher" if config.judge.same_as == "teacher" else "judge"
    # The address is part of no key: the simulator's port differs from start to start.
    engine = engine_class(endpoint.engine)(Setting(group, endpoint, config, "", simulator_url="http://127.0.0.1"))
    plain = any(event["role"] == "judge" for event in view.run.events(PLAIN_TEXT))
    target = Target("judge", endpoint, None, scope=scope_of(engine.scope(), endpoint), plain=plain)
    client, judge = Recorded(target, folder), JudgeRow.of(config, config.random_seed)
    names = POINTWISE if config.judge.mode == "pointwise" else PAIRWISE
    found: dict[str, Judged] = {}
    for row in rows:
        row_id = row["instruction_id"]
        try:
            judging = await judge.judging(client, row, "first")
        except NotJudged:
            continue
        found[row_id] = [(name, in_words(text)) for name, text in zip(names, judging.texts, strict=False)]
    return found


def in_words(reply: str) -> str:
    """Returns the reasoning in a reply of the form `scores_format`, or the whole reply."""
    try:
        reasoning = json.loads(reply)["reasoning"]
    except (ValueError, KeyError, TypeError):
        return reply
    return reasoning if isinstance(reasoning, str) and reasoning.strip() else reply
