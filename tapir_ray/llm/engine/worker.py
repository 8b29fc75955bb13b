"""Mixins for the Ray worker of the student's engine: start the engine, ask it, keep its answers.

engine = type(name, (Keeping, Asking, stage.fn), {})     # in `vllm_stage.py`; `stage.fn` is the class of `ray.data.llm`
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray

from tapir_ray.config import Replicas
from tapir_ray.data.schemas import FAILED, FILTERED, OK
from tapir_ray.data.thoughts import DEFAULT_MARKS, UNFINISHED_THINKING, Mark, split_thoughts
from tapir_ray.llm.engine.board import Teller
from tapir_ray.llm.engine.variables import THREADS
from tapir_ray.llm.row_sampling import ANSWER_TOKENS, PROMPT_TOKENS
from tapir_ray.run.answer_log import AnswerLog

T = TypeVar("T")
CUT = -1
"""Stands for each token of a cut-off answer from the log, whose tokens are no longer known."""
KEPT = "__kept__"
"""Column that marks an answer from the log."""


class Answering:
    """Worker that asks an engine for the answers to rows, and returns them as `collect` does."""

    data_column: str
    teller: Teller
    collect: Callable[[dict[str, Any]], dict[str, Any]]

    def outputs(self, batch: Any) -> AsyncIterator[dict[str, Any]]:
        """Yields the rows of a batch with the engine's output, in lists under `data_column`."""
        raise NotImplementedError

    async def __call__(self, batch: Any) -> AsyncIterator[pa.Table]:
        async for said in self.outputs(batch):
            rows = [self.collect(row) for row in said.get(self.data_column, ())]
            # Rows differ in their columns, and `pa.Table.from_pylist` takes those of the first row only.
            names = dict.fromkeys(name for row in rows for name in row)
            yield pa.table({name: [row.get(name) for row in rows] for name in names})

    async def told(self, ask: Callable[[dict[str, Any]], Awaitable[T]], row: dict[str, Any]) -> tuple[T, list[T]]:
        """Returns the answer to a row and its sampled answers, which are requested together; tells the board."""
        # `n` of vLLM would sample the first answer too, which is greedy.
        samples = [_sample(row, number) for number in range(row["samples"])]
        tokens: int | None = None
        self.teller.asked()
        try:
            first, *sampled = await asyncio.gather(ask(row), *map(ask, samples))
            # An unasked row passes through the engine with a prompt of one token, and its answer does not count.
            if not row.get("unasked"):
                tokens = sum(map(self.tokens_of, (first, *sampled)))
            return first, sampled
        finally:
            self.teller.answered(tokens)

    def tokens_of(self, answer: Any) -> int:
        """Returns the number of tokens of an answer."""
        return len(answer["generated_tokens"])


class Asking(Answering):
    """Mixin for Ray's engine worker that takes whole answers only, and ends the worker with its engine.

    The engine answers as many sequences at once as `vllm.LLM` would, on CPUs with its share of the node's cores. The
    output rows are those of `collect`, without the lists of tokens that Ray's worker returns.
    """

    llm: Any

    def __init__(
        self,
        *args: Any,
        collect: Callable[[dict[str, Any]], dict[str, Any]],
        replicas: Replicas,
        engine_kwargs: dict[str, Any],
        board: Any | None = None,
        **kwargs: Any,
    ) -> None:
        set_threads(replicas)
        kwargs["engine_kwargs"] = {**engine_sizes(replicas, engine_kwargs), **engine_kwargs}
        self.teller = Teller(board, ray.get_runtime_context().get_actor_id() or "")
        self.teller.starting()
        super().__init__(*args, **kwargs)
        self.teller.ready()
        self.collect = collect
        # Ray's worker calls `llm.generate_async` for each row; there is no other hook around a request.
        self.ask, self.llm.generate_async = self.llm.generate_async, self._ask_or_end

    def outputs(self, batch: Any) -> AsyncIterator[dict[str, Any]]:
        # The class after `Answering` is Ray's worker.
        said: AsyncIterator[dict[str, Any]] = super(Answering, self).__call__(batch)  # type: ignore[misc]
        return said

    def tokens_of(self, answer: Any) -> int:
        tokens: int = answer[1]["num_generated_tokens"]
        return tokens

    async def _ask_or_end(self, row: dict[str, Any]) -> Any:
        """Returns the engine's answer. If the engine is dead, logs the class of the error and ends this worker.

        Ray's worker ends itself too, but it does not log the class. It also misses the CancelledError of a request that
        was being sent when the engine died.
        """
        from vllm.sampling_params import RequestOutputKind

        # By default vLLM sends an output for every token.
        row["sampling_params"]["output_kind"] = RequestOutputKind.FINAL_ONLY
        try:
            (request, output, seconds), sampled = await self.told(self.ask, row)
            output["sampled_texts"] = [one["generated_text"] for _, one, _ in sampled]
            output["sampled_tokens"] = sum(map(self.tokens_of, sampled))
            return request, output, seconds
        except BaseException as error:
            if self.llm.engine.errored:
                logging.getLogger(__name__).error("the engine is dead: %s: %s", type(error).__name__, error)
                os._exit(1)
            raise


class Keeping:
    """Mixin for an Answering worker that logs each finished answer, and takes answers from the log if it has them."""

    IDX_IN_BATCH_COLUMN: str
    collect: Callable[[dict[str, Any]], dict[str, Any]]

    def __init__(self, *args: Any, keep: Callable[[], AnswerLog], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept, self.in_hand = keep(), 0

    async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """Yields the engine's output for each row in the order of completion, as Ray's worker does."""
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
            # The engine is idle: nothing will fill up the block, so it is written as it is.
            await asyncio.to_thread(self.kept.write, self.kept.rest())


def _sample(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Returns the row as the request for its sampled answer of this number, counted from 0."""
    # A seed for each: with equal seeds all samples would be the same.
    params = row["sampling_params"]
    sampled = {**params, "temperature": row["sample_temperature"], "seed": params["seed"] + 1 + number}
    return {**row, "sampling_params": sampled}


def threads(replicas: Replicas, node_cpus: float, cores: int) -> int:
    """Returns the cores of a node for each of the engines that fit on it. Their claims are logical CPUs of Ray.

    threads(Replicas(replicas=2, cpus=1), node_cpus=4, cores=16)  # 8
    """
    engines = min(replicas.replicas, max(1, int(node_cpus // replicas.cpus)))
    return max(1, cores // engines)


def set_threads(replicas: Replicas) -> None:
    """Sets the environment variable for the threads of an engine that this process starts on CPUs."""
    if replicas.gpus == 0:
        os.environ[THREADS] = str(threads(replicas, _node_cpus(), len(os.sched_getaffinity(0))))


def _node_cpus() -> float:
    """Returns the logical CPUs of this worker's node."""
    here = ray.get_runtime_context().get_node_id()
    return next(node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["NodeID"] == here)


def engine_sizes(replicas: Replicas, engine_kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Returns the batch sizes of `vllm.LLM` for the device of this node."""
    # vLLM takes Ray's engine for a server, with a fraction of these sizes.
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    tokens, sequences = EngineArgs.get_batch_defaults(replicas.tensor_parallel)
    most = engine_kwargs.get("max_num_batched_tokens", math.inf)
    # Without chunked prefill a whole prompt must fit into one step.
    fits = 0 if engine_kwargs.get("enable_chunked_prefill", True) else engine_kwargs["max_model_len"]
    return {
        "max_num_batched_tokens": max(tokens[UsageContext.LLM_CLASS], fits),
        # vLLM refuses more sequences than tokens per step.
        "max_num_seqs": min(sequences[UsageContext.LLM_CLASS], most),
    }


def _as_said(answer: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Returns an answer from the log in the format of the engine's output, for `collect`."""
    cut = answer["finish_reason"] == "length"
    return {
        "generated_text": answer["student_response"] or "",
        "generated_tokens": [CUT] * row["max_tokens"] if cut else [],
        "sampled_texts": answer.get("student_samples"),
        ANSWER_TOKENS: answer.get(ANSWER_TOKENS),
        "__inference_error__": "",
        KEPT: True,
    }


def collect(row: dict[str, Any], columns: list[str], marks: Sequence[Mark] = DEFAULT_MARKS) -> dict[str, Any]:
    """Returns the input columns and the answer without the student's thoughts.

    A row fails after an error of the engine, or if its thoughts have no end.
    """
    # All columns are filled in: rows with an error come back without some of them.
    answered = {name: row.get(name) for name in columns}
    error = row.get("__inference_error__")
    if error:
        answered |= {"status": FAILED, "reason": f"engine_error: {error}"}
    elif row["unasked"]:
        answered |= {"status": FILTERED, "reason": row["unasked"]}
    else:
        said, stops = list(row["generated_tokens"]), list(row["stop_token_ids"])
        if ANSWER_TOKENS in columns:
            counted = row[ANSWER_TOKENS] if row.get(KEPT) else len(said) + row["sampled_tokens"]
            answered |= {PROMPT_TOKENS: len(row["tokenized_prompt"]), ANSWER_TOKENS: counted}
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
    """Returns the answer in a text; None if its thoughts did not end, or nothing follows them."""
    thoughts, answer, complete = split_thoughts(text, marks)
    return answer.strip() if complete and (answer.strip() or not thoughts) else None
