"""Engine that repeats each request without latency, for benchmarks/scale.py.

    install()        # in the driver: workers of `Roles.ask` then echo, and send nothing

It replaces the sending of requests alone. Prompts, limits, leases, the cache of replies and usage work as in a run.
"""

from __future__ import annotations

from typing import Any

from tapir_ray.llm import asker, roles
from tapir_ray.llm.client import openai


class Echo(openai.Client):
    """Client that answers with the last message."""

    async def _send(self, body: dict[str, Any]) -> Any:
        said = body["messages"][-1]["content"]
        words = len(said.split())
        return {
            "model": body["model"],
            "choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": words, "completion_tokens": words},
        }


class EchoAsker(asker.Asker):
    """Worker whose clients echo."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        asker.Client = Echo  # type: ignore[misc]
        super().__init__(*args, **kwargs)


def install() -> None:
    """Makes every `Roles.ask` of this process start workers that echo."""
    roles.Asker = EchoAsker  # type: ignore[misc]
