"""What a training says of itself on its way, between rank 0 and the driver.

mailbox = ray.remote(Mailbox).remote()      # rank 0 puts, the driver takes

In a file without other imports: its process starts beside those that train, and would import torch as they do.
"""

from __future__ import annotations

from typing import Any


class Mailbox:
    """Holds what rank 0 says until the driver asks for it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def put(self, message: dict[str, Any]) -> None:
        """Keep a message."""
        self.messages.append(message)

    def take(self) -> list[dict[str, Any]]:
        """Messages since the last call."""
        messages, self.messages = self.messages, []
        return messages
