"""What the student's engine does in its Ray worker: how it is started, asked, and its answers kept.

engine = type(name, (Keeping, stage.fn), {})     (by `vllm_stage.py`, of the stage's class in `ray.data.llm`)
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray

from tapir_ray.config import Replicas
from tapir_ray.data.schemas import FAILED, FILTERED, OK
from tapir_ray.data.thoughts import DEFAULT_MARKS, UNFINISHED_THINKING, Mark, split_thoughts
from tapir_ray.llm.engine.board import Teller
from tapir_ray.run.answer_log import AnswerLog

CUT = -1
"""In the place of each token of an answer that was cut, where the tokens are not known any more."""
KEPT = "__kept__"
"""Marks an answer that was collected before."""


class Asking:
    """To be mixed into Ray's engine worker: takes an answer when it is whole, and ends with its engine.

    It answers as many sequences at once as `vllm.LLM` would, and on CPUs with its share of the node's cores. What it
    gives are rows as `collect` makes them of the engine's, which hold every token beside.
    """

    llm: Any
    data_column: str

    def __init__(
        self,
        *args: Any,
        collect: Callable[[dict[str, Any]], dict[str, Any]],
        replicas: Replicas,
        engine_kwargs: dict[str, Any],
        board: Any | None = None,
        **kwargs: Any,
    ) -> None:
        from tapir_ray.llm.engine.cpu_executor import THREADS

        if replicas.gpus == 0:
            os.environ[THREADS] = str(threads(replicas, _node_cpus(), len(os.sched_getaffinity(0))))
        kwargs["engine_kwargs"] = {**_batch_sizes(replicas, engine_kwargs), **engine_kwargs}
        self.teller = Teller(board, ray.get_runtime_context().get_actor_id() or "")
        self.teller.starting()
        super().__init__(*args, **kwargs)
        self.teller.ready()
        self.collect = collect
        self.ask, self.llm.generate_async = self.llm.generate_async, self._ask_or_end

    async def __call__(self, batch: dict[str, Any]) -> AsyncIterator[pa.Table]:
        async for said in super().__call__(batch):  # type: ignore[misc]
            rows = [self.collect(row) for row in said.get(self.data_column, ())]
            names = dict.fromkeys(name for row in rows for name in row)
            yield pa.table({name: [row.get(name) for row in rows] for name in names})

    async def _ask_or_end(self, row: dict[str, Any]) -> Any:
        """The engine's answer; ends this worker where the engine is dead, with the error's name in its log.

        Ray's worker ends itself too, but leaves the name out, and does not see the CancelledError by which an engine
        ends the requests that it was just being sent when it died. It would also be told of every token.
        """
        from vllm.sampling_params import RequestOutputKind

        row["sampling_params"]["output_kind"] = RequestOutputKind.FINAL_ONLY
        # `n` of vLLM would sample the first answer too, which is greedy.
        samples = [_sample(row, number) for number in range(row["samples"])]
        tokens: int | None = None
        self.teller.asked()
        try:
            (request, output, seconds), *sampled = await asyncio.gather(self.ask(row), *map(self.ask, samples))
            output["sampled_texts"] = [one["generated_text"] for _, one, _ in sampled]
            # A row that cannot be asked passes through the engine with a prompt of one token.
            if not row.get("unasked"):
                tokens = sum(one["num_generated_tokens"] for one in (output, *(one for _, one, _ in sampled)))
            return request, output, seconds
        except BaseException as error:
            if self.llm.engine.errored:
                logging.getLogger(__name__).error("the engine is dead: %s: %s", type(error).__name__, error)
                os._exit(1)
            raise
        finally:
            self.teller.answered(tokens)


class Keeping(Asking):
    """To be mixed into Ray's engine worker: keeps each answer as it is made, and does not ask for one that is kept."""

    IDX_IN_BATCH_COLUMN: str

    def __init__(self, *args: Any, keep: Callable[[], AnswerLog], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept, self.in_hand = keep(), 0

    async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """What the engine says to each row, in the order it says it, as Ray's worker does."""
        asked = {}
        for row in batch:
            answer = self.kept.found(row)
            if answer is None:
                asked[row[self.IDX_IN_BATCH_COLUMN]] = row
            else:
                yield {**_as_said(answer, row), self.IDX_IN_BATCH_COLUMN: row[self.IDX_IN_BATCH_COLUMN]}
        self.in_hand += len(asked)
        try:
            if asked:
                async for said in super().udf(list(asked.values())):  # type: ignore[misc]
                    self.in_hand -= 1
                    row = asked.pop(said[self.IDX_IN_BATCH_COLUMN])
                    finished = self.kept.add(self.collect({**row, **said}))
                    if finished:
                        await asyncio.to_thread(self.kept.write, finished)
                    yield said
        finally:
            self.in_hand -= len(asked)
        if not self.in_hand:
            await asyncio.to_thread(self.kept.write, self.kept.rest())


def _sample(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row as asked for its sampled answer of this number."""
    params = row["sampling_params"]
    sampled = {**params, "temperature": row["sample_temperature"], "seed": params["seed"] + 1 + number}
    return {**row, "sampling_params": sampled}


def threads(replicas: Replicas, node_cpus: float, cores: int) -> int:
    """Cores of a node for each of the engines that may be on it: Ray's CPUs, which they claim, are logical ones."""
    beside = min(replicas.replicas, max(1, int(node_cpus // replicas.cpus)))
    return max(1, cores // beside)


def _node_cpus() -> float:
    """Ray's CPUs of this worker's node."""
    here = ray.get_runtime_context().get_node_id()
    return next(node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["NodeID"] == here)


def _batch_sizes(replicas: Replicas, engine_kwargs: Mapping[str, Any]) -> dict[str, int]:
    """What `vllm.LLM` chooses for this node's device; for an engine of Ray's vLLM would take a fraction of it."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    tokens, sequences = EngineArgs.get_batch_defaults(replicas.tensor_parallel)
    most = engine_kwargs.get("max_num_batched_tokens", math.inf)
    # A prompt that is read at once must fit.
    fits = 0 if engine_kwargs.get("enable_chunked_prefill", True) else engine_kwargs["max_model_len"]
    return {
        "max_num_batched_tokens": max(tokens[UsageContext.LLM_CLASS], fits),
        # vLLM refuses more sequences than tokens a step.
        "max_num_seqs": min(sequences[UsageContext.LLM_CLASS], most),
    }


def _as_said(answer: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A kept answer in the engine's words, for `collect`."""
    cut = answer["finish_reason"] == "length"
    return {
        "generated_text": answer["student_response"] or "",
        "generated_tokens": [CUT] * row["max_tokens"] if cut else [],
        "sampled_texts": answer.get("student_samples"),
        "__inference_error__": "",
        KEPT: True,
    }


def collect(row: dict[str, Any], columns: list[str], marks: Sequence[Mark] = DEFAULT_MARKS) -> dict[str, Any]:
    """The input's columns and the answer without the student's thoughts; a row of which the thoughts were not finished
    fails. Rows of an engine error come back ragged and are made whole here.
    """
    answered = {name: row.get(name) for name in columns}
    error = row.get("__inference_error__")
    if error:
        answered |= {"status": FAILED, "reason": f"engine_error: {error}"}
    elif row["unasked"]:
        answered |= {"status": FILTERED, "reason": row["unasked"]}
    else:
        said, stops = list(row["generated_tokens"]), list(row["stop_token_ids"])
        cut = len(said) >= row["max_tokens"] and said[-1] not in stops
        answered["finish_reason"] = "length" if cut else "stop"
        text = row["generated_text"]
        answer = text if row.get(KEPT) else _without_thoughts(text, marks)
        if answer is None:
            answered |= {"status": FAILED, "reason": UNFINISHED_THINKING}
        else:
            answered |= {"student_response": answer.strip(), "status": OK}
        if row["samples"]:
            texts = row["sampled_texts"]
            answered["student_samples"] = texts if row.get(KEPT) else [_without_thoughts(one, marks) for one in texts]
    return answered


def _without_thoughts(text: str, marks: Sequence[Mark]) -> str | None:
    """The answer in a text; None if its thoughts did not end, or nothing follows them."""
    thoughts, answer, complete = split_thoughts(text, marks)
    return answer.strip() if complete and (answer.strip() or not thoughts) else None
