"""Exports a student of a run as a Hugging Face folder with a model card: whole, or its LoRA adapter alone.

    export_student("runs/mine", layout_of, "models/mine", "best", adapter=False)

A student's folder in the run has merged weights, which transformers and vLLM load. Its adapter is next to them if the
rounds continue one adapter (`train.lora.between_rounds: continue`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tapir_ray.config import Config
from tapir_ray.errors import InputError
from tapir_ray.report.export.files import CARD, new_folder
from tapir_ray.report.export.model_card import card
from tapir_ray.report.export.runs import open_run, refuse_inside
from tapir_ray.report.export.students import INITIAL, Chosen, is_local_name, student_of
from tapir_ray.run.layout import Layout, LoopLayout
from tapir_ray.run.manifest import MANIFEST
from tapir_ray.run.model_store import local
from tapir_ray.train.lora import FOLDER as ADAPTER

OF_THE_RUN = (MANIFEST, "train_result.json", "tapir_error.json")
"""Files of a checkpoint that belong to the run and not to the model."""
ADAPTER_CONFIG, BASE = "adapter_config.json", "base_model_name_or_path"
OF_THE_TOKENIZER = ("tokenizer*", "chat_template*", "special_tokens_map.json", "*.model", "vocab*", "merges.txt")
"""Files that an adapter needs besides its own, since the tokenizer of the base may have another chat template."""


def export_student(
    run_dir: str,
    layout_of: Callable[[Config], Layout],
    out: str,
    which: str | None = None,
    adapter: bool = False,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> Chosen:
    """Writes a student of a run to the folder or URI `out`, and returns which one.

    - `which`: best, last, control or initial; None is the best, or the last while the run goes on.
    - `adapter`: the adapter alone, for its base.
    - `finish`: called with the local folder of all files before `out` gets them.

    Raises InputError if the run has no such student, no such adapter, or if the target is taken.
    """
    run, config = open_run(run_dir)
    refuse_inside(run, out)
    layout = layout_of(config)
    chosen = student_of(run, config, layout, which)
    if chosen.checkpoint is None:
        name = "the initial student" if which == INITIAL else "its student"
        raise InputError(
            f"{run.uri}: {name} is {chosen.model} itself, which the run has not trained: nothing to export"
        )
    assert isinstance(layout, LoopLayout)
    source = Path(local(chosen.model))
    if adapter:
        _refuse_no_adapter(source, config, chosen)
    with new_folder(out, overwrite) as folder:
        if adapter:
            _copy(source / ADAPTER, folder)
            for pattern in OF_THE_TOKENIZER:
                for file in sorted(source.glob(pattern)):
                    shutil.copyfile(file, folder / file.name)
        else:
            _copy(source, folder)
        (folder / CARD).write_text(card(run, config, layout, chosen, adapter), encoding="utf-8")
        if finish is not None:
            finish(folder)
    return chosen


def _copy(source: Path, folder: Path) -> None:
    """Copies the files of a model, without those of the run and without sub-folders."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name not in OF_THE_RUN and not file.name.startswith("."):
            # Without the mode: a checkpoint's files may be readable by their owner alone.
            shutil.copyfile(file, folder / file.name)


def _refuse_no_adapter(source: Path, config: Config, chosen: Chosen) -> None:
    lora = config.train.lora
    if lora is None:
        raise InputError("--adapter: the run trains all weights (no train.lora): leave --adapter out")
    if not (source / ADAPTER / ADAPTER_CONFIG).is_file():
        raise InputError(
            f"--adapter: the student of round {chosen.round} has no adapter, as train.lora.between_rounds is "
            f"{lora.between_rounds}: only `continue` keeps one for the same base; leave --adapter out for the merged "
            "weights"
        )


def refuse_local_base(folder: Path) -> None:
    """Raises InputError for an adapter whose base is a folder of this machine: nobody could load it from a hub."""
    file = folder / ADAPTER_CONFIG
    if file.is_file() and is_local_name(str(json.loads(file.read_text())[BASE])):
        raise InputError(
            "--push: the base of the adapter is a folder of yours, which the hub does not have: leave --adapter out to "
            "push the merged weights"
        )
