"""Where the requests of a role go, and the key they carry."""

from __future__ import annotations

from dataclasses import dataclass

from tapir_ray.config import Endpoint
from tapir_ray.errors.redaction import remember


class Secret:
    """A key that travels to workers, prints as stars and is starred in errors."""

    def __init__(self, value: str) -> None:
        self._value = value
        remember(value)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        # A worker that it travels to knows it as well.
        return Secret, (self._value,)

    def reveal(self) -> str:
        """The key itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True)
class Target:
    """Where a role's requests go. `key` None sends no key."""

    role: str
    endpoint: Endpoint
    base_url: str | None
    key: Secret | None = None
    group: str = ""
    """Roles of one group share limits and requests in flight."""
    scope: str = ""
    """What serves the model, in the cache's keys: equal requests to it have equal replies."""
    plain: bool = False
    """Whether the endpoint is known to refuse a `response_format`."""

    @property
    def limited(self) -> bool:
        """Whether the limits of the endpoint are known; else they are found out by trying."""
        limits = self.endpoint.limits
        return limits.requests_per_minute is not None or limits.tokens_per_minute is not None
