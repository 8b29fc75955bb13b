"""Destination of the requests of a role, and their API key."""

from __future__ import annotations

from dataclasses import dataclass

from tapir_ray.config import Endpoint
from tapir_ray.errors.redaction import remember


class Secret:
    """API key that can be sent to workers. It prints as stars, and errors replace it by stars."""

    def __init__(self, value: str) -> None:
        self._value = value
        remember(value)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        # Unpickling calls __init__, so that a worker too removes the key from its errors.
        return Secret, (self._value,)

    def reveal(self) -> str:
        """Returns the key itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True)
class Target:
    """Destination of a role's requests. Without a `key`, none is sent."""

    role: str
    endpoint: Endpoint
    base_url: str | None
    key: Secret | None = None
    group: str = ""
    """Roles of one group share limits and requests in flight."""
    scope: str = ""
    """The engine's part of the keys in the cache: equal requests of one scope have equal replies."""
    plain: bool = False
    """Whether the endpoint is known to refuse a `response_format`."""

    @property
    def limited(self) -> bool:
        """Whether the limits per minute of the endpoint are known. If not, the client adapts to it."""
        limits = self.endpoint.limits
        return limits.requests_per_minute is not None or limits.tokens_per_minute is not None
