"""Writes a commented config from a few answers: student, teacher, seed data and hardware (`tapir init`).

text = starter(Answers(student="Qwen/Qwen2.5-0.5B-Instruct", seeds="rows.jsonl", gpus=1))
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tapir_ray.config.models import Endpoint
from tapir_ray.errors import InputError

STUDENT, TEACHER, KEY, SEEDS = (
    "Qwen/Qwen2.5-0.5B-Instruct",
    "gpt-4.1-2025-04-14",
    "OPENAI_API_KEY",
    "my_instructions.jsonl",
)
"""Answers that a question proposes."""
LARGE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)[Bb](?![a-z])")
"""Size in billions in the name of a model, such as 7B."""
LARGEST_FULL = 2.0
"""Billions of weights up to which all are trained on one GPU of 24 GB; larger ones get LoRA."""


@dataclass(frozen=True)
class Answers:
    """Answers of the user; every one has a default."""

    student: str = STUDENT
    teacher: str = TEACHER
    base_url: str | None = None
    """URL of the teacher's endpoint; None is OpenAI."""
    key_env: str | None = KEY
    """Name of the variable with the key; None for an endpoint without one."""
    seeds: str = SEEDS
    gpus: int = 0
    """GPUs of the machine; 0 is a machine with CPUs alone."""
    name: str = "mine"


def hardware(text: str) -> int:
    """Returns the number of GPUs in an answer: `cpu`, `1 gpu`, `4 gpus`, `4`. Raises InputError for other text."""
    found = re.fullmatch(r"(cpu|cpus|(\d+)\s*(gpu|gpus)?)", text.strip().lower())
    if found is None:
        raise InputError(f"hardware {text!r}: write cpu, 1gpu, or a number of GPUs such as 4gpus")
    return int(found.group(2) or 0)


def starter(answers: Answers) -> str:
    """Returns the text of a config, which `load` accepts."""
    parts = [_HEAD, _STUDENT, _TEACHER, _METHOD]
    parts.append(_ON_CPUS if not answers.gpus else _ON_GPU if answers.gpus == 1 else _ON_GPUS)
    size = _billions(answers.student)
    lora = size > LARGEST_FULL and 0 < answers.gpus <= 1
    url = answers.base_url
    values = {
        "name": answers.name,
        "seeds": json.dumps(answers.seeds),
        "student": json.dumps(answers.student),
        "teacher": json.dumps(answers.teacher),
        "url": f"\n  base_url: {json.dumps(url)}" if url else "",
        "key": answers.key_env or "null",
        "budget": _budget(answers),
        "length": 512 if not answers.gpus else 1024 if lora else 2048,
        "answer": 128 if not answers.gpus else 384,
        "dtype": "float32" if not answers.gpus else "bfloat16",
        "rows": 200 if not answers.gpus else 2000,
        "rate": "1.0e-4" if lora else "1.0e-5",
        "lora": _LORA if lora else "",
        "stage": 0 if answers.gpus <= 1 else 2 if size <= LARGEST_FULL else 3,
        "micro": 1 if lora or not answers.gpus else 2,
        "batch": 4 if not answers.gpus else 16 * answers.gpus,
        "gpus": answers.gpus,
    }
    return re.sub(r"<(\w+)>", lambda found: str(values[found.group(1)]), "".join(parts))


def _billions(model: str) -> float:
    found = LARGE.search(model.rpartition("/")[2])
    return float(found.group(1)) if found else 0.0


def _budget(answers: Answers) -> str:
    """Returns the budget: in dollars if the teacher's price is known, else in tokens."""
    endpoint = Endpoint(model=answers.teacher, base_url=answers.base_url)
    if endpoint.known_price is not None:
        return "  max_cost: 50                  # dollars; tapir check shows the forecast"
    return "  max_tokens: 20_000_000        # the price of the teacher is not listed: set teacher.price, then max_cost"


_HEAD = """\
# What this run does: the student answers the seed instructions, the judge finds those that are hard for it, the teacher
# writes more like these, and the student is trained on them.
#   tapir check CONFIG            # what it will need; asks nothing
#   tapir run CONFIG              # start, or continue
# Every key and its default: docs/config.md of tapir-ray.
name: <name>
seed_data:
  path: <seeds>
  responses: fill               # the teacher answers rows without an answer; replace: all rows
holdout:
  rows: 200                     # kept apart, to measure the student with; at most a fifth of the rows
"""
_STUDENT = """student:
  model: <student>
  # chat_template: chatml       # for a base model, which brings none
  dtype: <dtype>
  max_model_len: <length>
  sampling: {temperature: 0.0, max_tokens: <answer>}
"""
_TEACHER = """teacher:
  model: <teacher><url>
  api_key_env: <key>     # the name of the variable, never the key
  sampling: {temperature: 0.7, max_tokens: 1024}
  limits: {in_flight: 16}       # requests at once; more is faster, if your provider allows it
judge:
  same_as: teacher              # another model is less partial: judge: {model: …, api_key_env: …}
classify:
  by: teacher                   # names the task of each row; by: deberta trains a classifier for large data
"""
_METHOD = """\
# control: sft                  # trains a second student on the seed data alone: shows what the curriculum gains
curriculum:
  rounds: 2
  alpha: 0.3                    # share of hard rows in the training of round 1 …
  alpha_step: 0.2               # … and how much more in each later one
score:
  max_rows: <rows>                # rows that are scored in a round
expand:
  size: <rows>                    # new instructions of a round
train:<lora>
  sequence_length: <length>
  learning_rate: <rate>
  epochs: 2
  global_batch_size: <batch>
  micro_batch_size: <micro>
  precision: <dtype>
  zero_stage: <stage>
budget:
<budget>
"""
_LORA = """
  lora: {rank: 16, alpha: 32}   # adapters alone are trained: all weights would not fit"""
_ON_CPUS = """resources:                      # the only section that changes on another machine
  cpus: 4                       # logical: more than the machine has, since most stages wait
  transform_cpus: 0.4
"""
_ON_GPU = """resources:                      # the only section that changes on another machine
  student: {gpus: 1, cpus: 2}   # the student's answers and its training use the GPU in turn
  train: {gpus: 1, cpus: 2}
"""
_ON_GPUS = """resources:                      # the only section that changes on another machine
  student: {replicas: <gpus>, gpus: 1, cpus: 2}
  train: {replicas: <gpus>, gpus: 1, cpus: 2}
"""
