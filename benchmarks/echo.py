"""An engine that says back what it is asked, without latency: for benchmarks/scale.py.

    install()        # in the driver: the workers of `Roles.ask` then echo, nothing is sent anywhere

It stands where a request leaves the process. Before it and after it all is as in a run: prompts, limits, leases, the
cache of replies, usage.
"""

from __future__ import annotations

from typing import Any

from tapir_ray.llm import asker, roles
from tapir_ray.llm.client import openai


class Echo(openai.Client):
    """A client that answers with the last message."""

    async def _send(self, body: dict[str, Any]) -> Any:
        said = body["messages"][-1]["content"]
        words = len(said.split())
        return {
            "model": body["model"],
            "choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": words, "completion_tokens": words},
        }


class EchoAsker(asker.Asker):
    """A worker whose clients echo."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        asker.Client = Echo  # type: ignore[misc]
        super().__init__(*args, **kwargs)


def install() -> None:
    """Every `Roles.ask` of this process starts such workers."""
    roles.Asker = EchoAsker  # type: ignore[misc]
