"""Answers of a kept engine (`kept.py`) to the rows of a table, as a stage of Ray Data.

    rows = generate(rows, StudentWork("runs/demo/checkpoints/01", config.student, …, engines=kept.handles()))

The workers of the stage hold no engine: they send prompts to the engines of the run and log the answers.
"""
# Without vLLM and `ray.data.llm`, whose import would take the workers and the driver seconds.

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import ray.data

from tapir_ray.cluster.ray_data import small_blocks
from tapir_ray.llm.engine.board import EngineBoard, Teller
from tapir_ray.llm.engine.kept import Answer, NotLoadedError, Order
from tapir_ray.llm.engine.requests import asking, batches_at_once, engine_arguments, tokenised
from tapir_ray.llm.engine.worker import Answering, Keeping, collect

if TYPE_CHECKING:  # its module imports the clients, which take the workers a second
    from tapir_ray.llm.engine.base import StudentWork

ROW, NUMBER = "__row", "__number"
"""Columns with the whole row, and in it with its number in the batch."""


class KeptEngineStage(Answering):
    """Ray Data worker that sends the rows to one kept engine. `health.ENGINE` knows the name of this class."""

    IDX_IN_BATCH_COLUMN, data_column = NUMBER, ROW

    def __init__(
        self,
        engines: Sequence[Any],
        order: Order,
        collect: Callable[[dict[str, Any]], dict[str, Any]],
        board: Any,
    ) -> None:
        worker = ray.get_runtime_context().get_actor_id() or ""
        self.collect, self.teller = collect, Teller(board, worker)
        self.teller.starting()
        engine = engines[ray.get(board.number_of.remote(worker)) % len(engines)] if len(engines) > 1 else engines[0]
        self.engine = EngineClient(engine, order)
        self.engine.load()
        self.teller.ready()

    async def outputs(self, batch: pa.Table) -> AsyncIterator[dict[str, Any]]:
        """Yields the rows of a batch, in its order, with the output of the engine."""
        rows = [{**row, NUMBER: number} for number, row in enumerate(batch.column(ROW).to_pylist())]
        found: dict[int, dict[str, Any]] = {}
        async for output in self.udf(rows):
            found[output[NUMBER]] = output
        yield {ROW: [{**row, **found[row[NUMBER]]} for row in rows]}

    async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """Yields the engine's output for each row in the order of completion."""
        for finished in asyncio.as_completed([self._output(row) for row in batch]):
            yield await finished

    async def _output(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            output, sampled = await self.told(self.engine.ask, row)
        except EngineError as error:
            return {"__inference_error__": str(error), NUMBER: row[NUMBER]}
        texts = [one["generated_text"] for one in sampled]
        tokens = sum(map(self.tokens_of, sampled))
        return {
            **output,
            "sampled_texts": texts,
            "sampled_tokens": tokens,
            "__inference_error__": "",
            NUMBER: row[NUMBER],
        }


class EngineError(Exception):
    """Error of the engine on one row."""


class EngineClient:
    """Client of a kept engine in the event loop of a worker. Prompts of one turn of the loop are sent together."""

    def __init__(self, engine: Any, order: Order) -> None:
        self._engine, self._order = engine, order
        self._waiting: list[tuple[dict[str, Any], asyncio.Future[Answer]]] = []
        self._sent: set[asyncio.Task[None]] = set()

    def load(self) -> None:
        """Returns once the engine holds the model. Raises RuntimeError if it cannot start."""
        ray.get(self._engine.load.remote(self._order))

    async def ask(self, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the engine's answer. Raises EngineError for a row with an error.

        After the death of the engine the row is sent again to its successor.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((row, answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        found = await answer
        if isinstance(found, str):
            raise EngineError(found)
        return found

    def _send(self) -> None:
        rows, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._receive(dict(enumerate(rows))))
        self._sent.add(task)
        task.add_done_callback(self._sent.discard)

    async def _receive(self, left: dict[int, tuple[dict[str, Any], asyncio.Future[Answer]]]) -> None:
        ask = self._engine.answers.options(num_returns="streaming")
        while left:
            asked = {key: (list(row["tokenized_prompt"]), row["sampling_params"]) for key, (row, _) in left.items()}
            try:
                async for group in ask.remote(self._order.model, asked):
                    for key, answer in await group:
                        _, wanted = left.pop(key)
                        if not wanted.done():  # a cancelled one wants no answer
                            wanted.set_result(answer)
            except (ray.exceptions.RayActorError, NotLoadedError):
                await self._load_again()
            except Exception as error:
                for _, wanted in left.values():
                    if not wanted.done():
                        wanted.set_exception(error)
                return

    async def _load_again(self) -> None:
        try:
            await self._engine.load.remote(self._order)
        except Exception:
            # The next worker meets the same error at its start, which ends the pipeline with the engine's log.
            os._exit(1)


class KeptEngineStageLog(Keeping, KeptEngineStage):
    """KeptEngineStage with a log of finished answers."""


def generate(rows: ray.data.Dataset, work: StudentWork) -> ray.data.Dataset:
    """Returns the rows that `vllm_stage.generate` would return, answered by `work.engines`. Lazy.

    `work.processes` has no effect: the engines have their folder.
    """
    columns = rows.columns()
    if not columns:
        raise ValueError("generate: the rows have no columns")
    student, replicas, engines = work.student, work.replicas, list(work.engines or ())
    board = ray.remote(num_cpus=0)(EngineBoard).remote() if work.board is None else work.board
    batches = batches_at_once(student)
    rows = small_blocks(rows, student.batch_size, work.transform_cpus)
    # One task per engine keeps it busy. Every further one would load the tokenizer and import transformers again.
    rows = rows.map(
        functools.partial(_whole, **asking(work)), num_cpus=work.transform_cpus, concurrency=replicas.replicas
    )
    arguments = {
        "engines": engines,
        "order": Order(work.model, engine_arguments(work.model, student, replicas), replicas),
        "collect": functools.partial(collect, columns=columns, marks=student.thinking_marks),
        "board": board,
    }
    return rows.map_batches(
        KeptEngineStage if work.keep is None else KeptEngineStageLog,
        fn_constructor_kwargs={**arguments, **({} if work.keep is None else {"keep": work.keep})},
        batch_size=student.batch_size,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ray.data.ActorPoolStrategy(
            size=len(engines), max_tasks_in_flight_per_actor=2 * batches, max_concurrent_calls_per_actor=batches
        ),
    )


def _whole(row: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    return {ROW: tokenised(row, **arguments)}
