"""Engine for the batch API of a provider: half the price, for replies within a day."""

from __future__ import annotations

from tapir_ray.config.engines import OPENAI_BATCH
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.batch import BatchClient
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.concurrency import InFlight
from tapir_ray.llm.client.target import Target
from tapir_ray.llm.engine.openai import OpenAI


class OpenAIBatch(OpenAI):
    """A provider's model, as `OpenAI`, with requests that wait for their batch."""

    spec = OPENAI_BATCH

    @classmethod
    def client(
        cls, target: Target, meter: Meter, in_flight: InFlight, cache: Cache | None = None, folder: str | None = None
    ) -> Client:
        # Without `in_flight`: as many requests may wait as fit into a batch.
        return BatchClient(target, meter, folder, cache=cache)
