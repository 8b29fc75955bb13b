"""A row's own temperature and length of answer, in requests (in the engine's prompts: engine/test_vllm.py)."""

from __future__ import annotations

import asyncio
from typing import Any

from tapir_ray.config import Endpoint, Sampling
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.row_sampling import sampling_of_row
from tapir_ray.transforms.answer import student_answer
from tests.llm.endpoint import running

OWN = {"answer_temperature": 0.7, "answer_max_tokens": 9}
ROW: dict[str, Any] = {
    "instruction_id": "a", "messages": [{"role": "user", "content": "two plus two"}], "status": "ok", "split": None
}  # fmt: skip


def test_a_row_without_values_of_its_own_keeps_the_students() -> None:
    sampling = Sampling(temperature=0.2, top_p=0.9, max_tokens=64)
    assert sampling_of_row({}, sampling) == sampling_of_row({"answer_temperature": None}, sampling) == sampling
    assert sampling_of_row({**OWN, "answer_temperature": 0.0}, sampling) == Sampling(top_p=0.9, max_tokens=9)


def test_an_endpoint_is_asked_with_the_sampling_of_the_row() -> None:
    with running(lambda body, attempt: "four") as seen:

        async def main() -> None:
            endpoint = Endpoint(model="s", api_key_env=None, sampling=Sampling(max_tokens=64))
            client = OpenAIClient(Target("student", endpoint, seen.url), Meter())
            for row in (ROW, {**ROW, **OWN}):
                await student_answer({"student": client}, row)
            await client.close()

        asyncio.run(main())
    assert [(body["temperature"], body["max_tokens"]) for body in seen.requests] == [(0.0, 64), (0.7, 9)]
