"""Suite `ifeval`: 541 prompts with instructions that a program can check, such as "at least 300 words".

J. Zhou et al., Instruction-Following Evaluation for Large Language Models, arXiv:2311.07911. Answers are greedy, in the
student's chat template. The score of an item is 1 if its answer follows all instructions by the strict checks, else 0.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa
import ray.data

from tapir_ray.config import Config
from tapir_ray.data.schemas import FAILED, OK, SCORED, conform, instruction_id
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError
from tapir_ray.evaluate.item_files import Distinct, read_items, text_of_field
from tapir_ray.evaluate.paired import Metric, bootstrap
from tapir_ray.evaluate.suite import Forecast, Suite, Summary, summarised
from tapir_ray.llm.row_sampling import MAX_TOKENS, ROW_SAMPLING, TEMPERATURE
from tapir_ray.run.layout import Table
from tapir_ray.transforms.ifeval_checks import Prompt, check, known_instructions

PATH = "evaluate.ifeval.path"
SOURCE = (
    "IFEval's input_data.jsonl (google-research/google-research on GitHub, instruction_following_eval/data, or the "
    "hub's data set google/IFEval)"
)
KINDS, ARGUMENTS, STRICT, LOOSE = "instructions", "instruction_arguments", "strict", "loose"
SCHEMA = pa.schema(
    [
        *SCORED,
        *ROW_SAMPLING,
        ("key", pa.int64()),
        (KINDS, pa.list_(pa.string())),
        (ARGUMENTS, pa.list_(pa.string())),
        (STRICT, pa.list_(pa.bool_())),
        (LOOSE, pa.list_(pa.bool_())),
    ]
)
"""`instructions`: ids such as `punctuation:no_comma`. `instruction_arguments`: JSON of each. `strict`, `loose`: whether
the answer follows each of them."""
LONG_PROMPT = 512
"""Tokens that the longest prompts need."""


class IfEvalSuite(Suite):
    """Instructions that a program checks. The score of an item is 1 if all of its instructions are followed, else 0."""

    schema: ClassVar[pa.Schema] = SCHEMA

    def check(self) -> list[str]:
        """Reads the file. Raises InputError that names the key or the missing package."""
        read_prompts(self.config)
        longest, needed = self.config.student.max_model_len, self.config.evaluate.ifeval.max_tokens
        if longest < needed + LONG_PROMPT:
            return [
                f"ifeval: student.max_model_len {longest} has no room for a prompt and an answer of "
                f"evaluate.ifeval.max_tokens {needed}: answers may be cut off earlier"
            ]
        return []

    def forecast(self, answer: str) -> Forecast:
        return Forecast(self.count())

    def items(self) -> ray.data.Dataset:
        return ray.data.from_arrow(conform(read_prompts(self.config), SCHEMA))

    def count(self) -> int:
        return len(read_prompts(self.config))

    def scored(self, rows: ray.data.Dataset) -> ray.data.Dataset:
        cpus = self.config.resources.transform_cpus
        return rows.map_batches(checked, batch_format="pyarrow", batch_size=None, num_cpus=cpus)

    def summary(self, table: Table) -> Summary:
        """Returns the share of prompts that are followed strictly, and by category that of instructions.

        Metrics: `prompt_strict`, `prompt_loose`, `instruction_strict`, `instruction_loose`; `mean_strict`, the mean of
        the strict two; and the strict share of each instruction by its id. Raises StageError if the table is not
        finished.
        """
        rows = [
            row
            for batch in self.run.scan(table, ["status", KINDS, STRICT, LOOSE])
            for row in batch.to_pylist()
            if row["status"] == OK and row[STRICT] is not None
        ]
        manifest = self.run.manifest(table)
        missing = {**manifest.reasons, **manifest.errors}
        if not rows:
            return summarised([], missing)
        found = metrics(rows)
        return Summary(round(found["prompt_strict"].value, 3), len(rows), by_group(rows), missing, found)


def checked(batch: pa.Table) -> pa.Table:
    """Returns answered rows with `strict`, `loose` and `student_score`; a check that breaks fails its row."""
    rows = conform(batch, SCHEMA).to_pylist()
    for row in rows:
        if row["status"] != OK:
            continue
        arguments = [json.loads(one) for one in row[ARGUMENTS]]
        prompt = Prompt(row["messages"][-1]["content"], row[KINDS], arguments)
        try:
            verdicts = check(prompt, row["student_response"] or "")
        except InputError:
            raise
        except Exception as error:
            row["status"], row["reason"] = FAILED, f"check_failed: {one_line(error)}"
            continue
        row[STRICT], row[LOOSE] = verdicts.strict, verdicts.loose
        row["student_score"] = float(all(verdicts.strict))
    return conform(rows, SCHEMA)


def metrics(rows: Sequence[dict[str, Any]]) -> dict[str, Metric]:
    """Returns the figures of checked rows by name, with intervals over prompts: 541 prompts, not 834 instructions."""
    counts = [float(len(row[KINDS])) for row in rows]
    found: dict[str, Metric] = {}
    for way in (STRICT, LOOSE):
        found[f"prompt_{way}"] = bootstrap([float(all(row[way])) for row in rows])
        found[f"instruction_{way}"] = bootstrap([float(sum(row[way])) for row in rows], counts)
    # Instructions of a prompt, divided by those of the average prompt: the mean is the share of all instructions.
    average = sum(counts) / len(counts)
    found["mean_strict"] = bootstrap([(all(row[STRICT]) + sum(row[STRICT]) / average) / 2 for row in rows])
    passed: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        for kind in set(row[KINDS]):
            verdicts = [ok for name, ok in zip(row[KINDS], row[STRICT], strict=True) if name == kind]
            passed[kind].append((sum(verdicts), len(verdicts)))
    for kind, pairs in sorted(passed.items()):
        found[kind] = bootstrap([float(ok) for ok, _ in pairs], [float(asked) for _, asked in pairs])
    return found


def by_group(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the strict share of the instructions in each group, such as `keywords`, rounded to 3 digits."""
    pairs = [(kind.partition(":")[0], ok) for row in rows for kind, ok in zip(row[KINDS], row[STRICT], strict=True)]
    return summarised((group, float(ok)) for group, ok in pairs).by_category


def read_prompts(config: Config) -> list[dict[str, Any]]:
    """Returns the items in the order of the file.

    Raises InputError for a missing or broken file, an instruction that no check knows, and a prompt that comes twice.
    """
    settings, known = config.evaluate.ifeval, known_instructions()
    rows: list[dict[str, Any]] = []
    read = Distinct(PATH, "prompt")
    for place, row in read_items(settings.path, PATH, SOURCE):
        prompt = text_of_field(row, "prompt", place, PATH)
        kinds, arguments = row.get("instruction_id_list"), row.get("kwargs")
        if not isinstance(kinds, list) or not isinstance(arguments, list) or not 0 < len(kinds) == len(arguments):
            raise InputError(
                f"{PATH} {place}: instruction_id_list and kwargs must be lists of one length; give the path of {SOURCE}"
            )
        if unknown := [kind for kind in kinds if kind not in known]:
            raise InputError(f"{PATH} {place}: no check is known for {unknown[0]!r}: take the row out")
        messages = [{"role": "user", "content": prompt}]
        row_id = instruction_id(messages)
        read.add(row_id, place)
        rows.append(
            {
                "instruction_id": row_id,
                "messages": messages,
                "status": OK,
                TEMPERATURE: 0.0,
                MAX_TOKENS: settings.max_tokens,
                "key": row.get("key") if isinstance(row.get("key"), int) else None,
                KINDS: kinds,
                # The hub's Parquet file has every argument in every row, most of them null.
                ARGUMENTS: [json.dumps({k: v for k, v in (one or {}).items() if v is not None}) for one in arguments],
            }
        )
    if not rows:
        raise InputError(f"{PATH} {settings.path} has no prompts: give the path of {SOURCE}")
    return rows
