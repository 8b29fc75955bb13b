"""Measures a model on items of lm-evaluation-harness, in a worker of its own: log likelihoods and answers by its HFLM.

    measure = Harness(model, student, "arc_easy", settings, threads=1)
    rows = measure(batch)                      # rows of SCHEMA with `metrics` and `student_score`

Prompts of all items are built at the start, in the task's order: the harness draws the examples before a question one
after the other, so a prompt built alone would have other examples.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from tapir_ray.config import Student
from tapir_ray.config.checked_suites import LmEval
from tapir_ray.data.schemas import FILTERED, OK, conform
from tapir_ray.evaluate.lm_eval_tasks import AGGREGATIONS, DOC_ID, METRICS, SCHEMA, load_tasks
from tapir_ray.run.model_store import local
from tapir_ray.train.chat import shared_tokenizer

NO_ITEM_SCORE = "no_item_score"
"""Reason of an item whose metrics are figures over all items only, as BLEU; they are in the summary."""
RATIOS = ("weighted_perplexity", "bits_per_byte")
"""Aggregations of (log likelihood, words or bytes)."""


class Harness:
    """The worker's function for Ray Data: a model, and the prompts of all items."""

    def __init__(self, model: str, student: Student, argument: str, settings: LmEval, threads: int, gpu: bool) -> None:
        import torch
        from lm_eval.models.huggingface import HFLM

        torch.set_num_threads(threads)
        folder = local(model)
        self._lm = HFLM(
            pretrained=folder,
            tokenizer=shared_tokenizer(folder, student),
            backend="causal",
            device="cuda" if gpu else "cpu",
            dtype=student.dtype,
            batch_size=settings.batch_size,
            trust_remote_code=student.trust_remote_code,
            revision=student.revision or "main",
        )
        self._tasks = load_tasks(argument, settings)
        self._requests = {name: self._built(task, settings) for name, task in self._tasks.items()}

    def _built(self, task: Any, settings: LmEval) -> dict[int, list[Any]]:
        """Returns the requests of a task by the item's position."""
        chat = settings.apply_chat_template
        task.build_all_requests(
            limit=settings.limit,
            apply_chat_template=chat,
            chat_template=self._lm.apply_chat_template if chat else None,
            tokenizer_name=self._lm.tokenizer_name if chat else "",
        )
        found: dict[int, list[Any]] = defaultdict(list)
        for request in task.instances:
            found[request.doc_id].append(request)
        return {doc_id: sorted(asked, key=lambda one: one.idx) for doc_id, asked in found.items()}

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = conform(batch, SCHEMA).to_pylist()
        by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_task[row["task"]].append(row)
        for name, some in by_task.items():
            self._measure(self._tasks[name], self._requests[name], some)
        return conform(rows, SCHEMA)

    def _measure(self, task: Any, requests: Mapping[int, list[Any]], rows: list[dict[str, Any]]) -> None:
        """Sets the metrics, the answer and the score of the rows of one task."""
        asked = [request for row in rows for request in requests[row[DOC_ID]]]
        answer(self._lm, asked)
        task._instances = asked  # `apply_filters` reads no others
        task.apply_filters()
        for row in rows:
            own = requests[row[DOC_ID]]
            values = {
                metric if key == "none" else f"{metric},{key}": value
                for key in own[0].filtered_resps
                for metric, value in task.process_results(
                    own[0].doc, [request.filtered_resps[key] for request in own]
                ).items()
            }
            functions, higher = task.aggregation(), task.higher_is_better()
            aggregations = {name: _name(functions[name.partition(",")[0]]) for name in values}
            row[METRICS] = json.dumps(values, default=_plain, ensure_ascii=False)
            row[AGGREGATIONS] = json.dumps(aggregations)
            row["student_response"] = _texts(own)
            better = {name for name in values if higher.get(name.partition(",")[0], True)}
            row["student_score"] = item_score(json.loads(row[METRICS]), aggregations, better)
            if row["status"] == OK and row["student_score"] is None:
                row["status"], row["reason"] = FILTERED, NO_ITEM_SCORE


def answer(lm: Any, requests: Iterable[Any]) -> None:
    """Asks the model, and adds its responses to the requests."""
    by_type: dict[str, list[Any]] = defaultdict(list)
    for request in requests:
        request.resps.clear()
        request.filtered_resps.clear()
        by_type[request.request_type] += [request] * (request.repeats or 1)
    for kind, repeated in by_type.items():
        for request, response in zip(repeated, getattr(lm, kind)(repeated, disable_tqdm=True), strict=True):
            request.resps.append(response)


def item_score(values: Mapping[str, Any], aggregations: Mapping[str, str], better: set[str]) -> float | None:
    """Returns the score of an item, of which higher is better, from its metrics; None if none is about one item.

    The first metric that is a mean and better if higher, else the first of:
    - a log likelihood (perplexity), or one for each word or byte
    - 1 if the predicted class is the right one, else 0 (F1 and Matthews correlation of classes)
    """
    for name, value in values.items():
        if aggregations[name] == "mean" and name in better and isinstance(value, int | float):
            return float(value)
    for name, value in values.items():
        if aggregations[name] == "perplexity":
            return float(value)
        if aggregations[name] in RATIOS:
            return float(value[0]) / float(value[1])
        if aggregations[name] in ("f1", "matthews_corrcoef"):
            return float(value[0] == value[1])
    return None


def _texts(requests: list[Any]) -> str | None:
    """Returns the answers of an item; None if the model only gave log likelihoods."""
    texts = [text for request in requests for text in request.resps if isinstance(text, str)]
    return "\n\n".join(texts) if texts else None


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
