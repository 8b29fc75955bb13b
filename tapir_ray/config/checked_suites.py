"""Settings of the built-in evaluation suites whose scores are computed without a judge (docs/evaluation.md)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tapir_ray.config.section import Count, Section, key


class IfEval(Section):
    """Suite `ifeval`: instructions that a program can check, such as "do not use commas"."""

    path: str | None = None
    """File of the prompts, with `prompt`, `instruction_id_list` and `kwargs`."""
    max_tokens: Count = 1280
    """Most tokens of an answer of the student; 1,280 is that of lm-evaluation-harness."""


class LmEval(Section):
    """Suite `lm_eval:TASK,TASK`: tasks of lm-evaluation-harness on the student's folder."""

    include_path: str | None = None
    """Folder with task files (YAML) of your own; its tasks come before the harness's."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; `null` is the task's own number. A task that sets 0 itself keeps it."""
    limit: Count | None = None
    """First items of each task that are measured; `null` is all."""
    apply_chat_template: bool = False
    """Questions are user turns in the student's chat template; without it, plain text."""
    batch_size: Count = key(8, invalidates=())
    """Sequences that the model reads at once."""
