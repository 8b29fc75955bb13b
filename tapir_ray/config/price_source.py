"""Names the source of a run's prices, in a phrase for `tapir check` and the card of a dataset."""

from __future__ import annotations

from tapir_ray.config import Config, prices


def priced_by(config: Config) -> str | None:
    """Returns the roles with a list price, and the list with its date; None if no role has a list price.

    Models that the run serves or simulates cost nothing and need none.
    """
    listed = [
        key
        for key, endpoint in config.endpoints.items()
        if endpoint.price is None and endpoint.has_provider and endpoint.known_price is not None
    ]
    return f"list prices of {' and '.join(listed)} by {prices.source()}" if listed else None
