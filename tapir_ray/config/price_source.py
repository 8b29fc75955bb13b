"""Where the prices of a run come from, in a sentence for `tapir check` and the card of a dataset."""

from __future__ import annotations

from tapir_ray.config import Config, prices


def priced_by(config: Config) -> str | None:
    """Which roles have a list price, of which list and day; None if the config prices all of them or none has a price.

    Models that are served here or simulated cost nothing.
    """
    listed = [
        key
        for key, endpoint in config.endpoints.items()
        if endpoint.price is None and endpoint.has_provider and endpoint.known_price is not None
    ]
    return f"list prices of {' and '.join(listed)} by {prices.source()}" if listed else None
