"""Actor that passes the progress of a training from rank 0 to the driver.

    mailbox = ray.remote(Mailbox).remote()      # rank 0 puts, the driver takes

This module must import nothing heavy: the process of the actor would otherwise load torch next to those that train.
"""

from __future__ import annotations

from typing import Any


class Mailbox:
    """Stores the messages of rank 0 until the driver takes them."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def put(self, message: dict[str, Any]) -> None:
        """Stores a message."""
        self.messages.append(message)

    def take(self) -> list[dict[str, Any]]:
        """Returns the messages since the last call."""
        messages, self.messages = self.messages, []
        return messages


def shown(message: dict[str, Any]) -> dict[str, str]:
    """Formats a message for the progress line. Its loss is that of the last step, in nats per response token."""
    return {
        "step": f"{message['step']}/{message['steps']}",
        "loss": f"{message['loss']:.2f}",
        "tokens/s": f"{message['tokens_per_second']:,.0f}",
    }
