"""Teacher and judge for a table of rows, without a run: budget, limits, retries and cache as in one.

with asking(config, PROGRAM) as roles:
    rows = asked(roles, rows, LabelRow(...), schema)
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa

from tapir_ray.api.caller import Caller, logged
from tapir_ray.api.configs import ConfigLike, content_of
from tapir_ray.api.opening import simulator
from tapir_ray.cluster.session import session
from tapir_ray.cluster.workers import refuse_other_machines
from tapir_ray.config import Config, parse
from tapir_ray.data.schemas import BUDGET_USED_UP
from tapir_ray.errors import Stopped
from tapir_ray.llm.asker import AskRow
from tapir_ray.llm.roles import Roles

ROW = pa.field("row", pa.int64())
"""Number of a row, from 0, by which the answers come back in order."""
ALWAYS = ("name", "random_seed", "teacher", "prompts", "budget", "cache", "simulator", "resources")
"""Keys of a config that have an effect here, next to those of the function."""
OF_A_RUN = ("student", "classifier", "train")
"""Claims in `resources` that only a run has."""


def config_for_rows(config: ConfigLike, *keys: str, **sections: Mapping[str, Any]) -> Config:
    """Returns a config for rows: with the keys ALWAYS and `keys` of `config`, and with `sections` instead of its own.

    So a config of a run may be given, and one without the keys that only a run needs. Raises InputError that names the
    key.
    """
    given = content_of(config)
    # Unknown keys stay, since the config refuses them.
    content = {key: value for key, value in given.items() if key in (*ALWAYS, *keys) or key not in Config.model_fields}
    content = {"name": "rows", "student": {"model": "unused"}, **content, **sections}
    if not (content.get("simulator") or {}).get("seed_rows"):
        content["seed_data"] = {"path": "unused"}
    if isinstance(claims := content.get("resources"), dict):
        own = ("classifier",) if "classify" in sections and sections["classify"]["by"] == "deberta" else ()
        content["resources"] = {key: value for key, value in claims.items() if key in own or key not in OF_A_RUN}
    return parse(content)


@contextmanager
def asking(config: Config, caller: Caller) -> Iterator[Roles]:
    """Context manager of the open roles of a config, which store nothing but replies in `cache.dir`.

    Raises InputError for an endpoint that cannot be used.
    """
    with ExitStack() as stack:
        stack.enter_context(logged(caller))
        url = stack.enter_context(simulator(config)) if config.simulator else None
        run_id = f"rows-{uuid.uuid4().hex[:12]}"
        Roles(config, run_id, url).check()
        stack.enter_context(session(config, caller.signals))
        if url is not None:
            refuse_other_machines()
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tapir-rows-"))
        # Batches are stored in a folder: other workers read it.
        roles = stack.enter_context(Roles(config, run_id, url, folder))
        stack.enter_context(roles.watched())
        yield roles


def asked(roles: Roles, rows: list[dict[str, Any]], function: AskRow, schema: pa.Schema) -> pa.Table:
    """Returns `function` of each row as rows of `schema`, in order. Raises Stopped if the budget is used up."""
    import ray.data

    numbered = pa.schema([*schema, ROW])
    table = pa.Table.from_pylist([{**row, ROW.name: number} for number, row in enumerate(rows)], schema=numbered)
    if not rows:
        return table.drop_columns([ROW.name])
    found = ray.data.from_arrow(table)
    blocks = ray.get(roles.ask(found, function, numbered).to_arrow_refs())
    done = pa.concat_tables([block for block in blocks if len(block)]).sort_by(ROW.name).drop_columns([ROW.name])
    if BUDGET_USED_UP in done["reason"].unique().to_pylist():
        raise Stopped(
            "the budget is used up before all rows were asked: raise it; with cache.dir nothing is asked twice"
        )
    return done
