"""Engine for a model behind an OpenAI-compatible URL."""

from __future__ import annotations

import json
import os

from tapir_ray.config import SIMULATOR
from tapir_ray.config.engines import OPENAI
from tapir_ray.errors import InputError
from tapir_ray.llm.budget.usage import Meter
from tapir_ray.llm.client.cache import Cache
from tapir_ray.llm.client.check import check
from tapir_ray.llm.client.client import Client
from tapir_ray.llm.client.concurrency import InFlight
from tapir_ray.llm.client.openai import OpenAIClient
from tapir_ray.llm.client.target import Secret, Target
from tapir_ray.llm.engine.base import Engine, Setting
from tapir_ray.llm.event_loop import complete

NO_RESULT = {"log", "latency_s", "max_requests_per_minute", "seed_error_rate"}
"""Keys of the simulator that do not change replies, so they are not part of the cache key."""


class OpenAI(Engine):
    """A provider's model, the user's own server, or the simulator of the run."""

    spec = OPENAI

    def __init__(self, setting: Setting) -> None:
        """Raises InputError for the `base_url` `simulator` if no simulator runs."""
        super().__init__(setting)
        if self._simulated and setting.simulator_url is None:
            raise InputError(f"{setting.role}.base_url is '{SIMULATOR}' but no simulator runs: add a simulator section")

    @property
    def _simulated(self) -> bool:
        return self.setting.endpoint.base_url == SIMULATOR

    def check(self) -> None:
        """Raises InputError if the key is missing or refused, or if the URL is not an API that serves the model."""
        complete(check(self.target()))

    def url(self) -> str | None:
        if self._simulated:
            return f"{str(self.setting.simulator_url).rstrip('/').removesuffix('/v1')}/v1"
        return self.setting.endpoint.base_url

    def key(self) -> Secret | None:
        variable = None if self._simulated else self.setting.endpoint.api_key_env
        if variable is None:
            return None
        value = os.environ.get(variable)
        if not value:
            raise InputError(
                f"{self.setting.role}.api_key_env: the environment variable {variable} is not set; set it, or write "
                "null for no key"
            )
        return Secret(value)

    def scope(self) -> str:
        simulator = self.setting.config.simulator
        if self._simulated and simulator is not None:
            settings = simulator.model_dump(mode="json", exclude=NO_RESULT)
            # Left out at its default, so that caches of older runs stay valid.
            settings = {key: value for key, value in settings.items() if (key, value) != ("teacher_error_rate", 0.0)}
            return json.dumps(["simulator", self.setting.config.random_seed, settings], sort_keys=True)
        return self.setting.endpoint.base_url or ""

    @classmethod
    def client(
        cls, target: Target, meter: Meter, in_flight: InFlight, cache: Cache | None = None, folder: str | None = None
    ) -> Client:
        return OpenAIClient(target, meter, in_flight, cache)
