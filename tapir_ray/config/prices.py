"""List prices of models at their providers, from the package `genai-prices`, for a config without a price.

known = listed_price("gpt-4.1-2025-04-14", base_url=None)        # {"input": 2.0, "cached_input": 0.5, "output": 8.0}

Reads the installed list and fetches nothing.
"""

from __future__ import annotations

import functools
import re
from datetime import UTC, date, datetime, time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

_DATE = re.compile(r"[-@_](?:20\d\d-?[01]\d-?[0-3]\d|2[0-9](?:0[1-9]|1[0-2])|(?:0[1-9]|1[0-2])[0-3]\d)(?=$|[-_:])")
"""Dates in model names as providers write them: 2025-04-14, 20250414, 2411 (year, month) or 0613 (month, day)."""
DEFAULT_URL = "https://api.openai.com/v1"
_NAMES = {
    "input": "input_mtok",
    "cached_input": "cache_read_mtok",
    "output": "output_mtok",
    "reasoning": "output_reasoning_mtok",
}
"""Names of `config.Price` to the names in the package; both are prices of a million tokens."""


@functools.cache
def listed_price(model: str, base_url: str | None) -> dict[str, Any] | None:
    """Returns today's list price of a model as the fields of `config.Price`; None if it is not listed.

    `base_url` decides the provider. A model may have its provider in front (`openai/gpt-4o`) and a date at its end. Of
    prices that change over the day the highest counts.
    """
    found = _find(model, base_url or DEFAULT_URL)
    if found is None:
        return None
    # Some providers are cheaper at night. A budget must also hold for a run by day.
    hours = [found.get_prices(datetime.combine(_today(), time(hour), UTC)) for hour in range(24)]
    prices = [_fields(price) for price in hours]
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        return None
    return max(known, key=lambda price: (price["output"], price["input"]))


def source() -> str:
    """Returns the name and version of the list and the date of its newest price, for a message."""
    return f"genai-prices {version('genai-prices')} (newest price {newest().isoformat()})"


@functools.cache
def newest() -> date:
    """Returns the latest day, up to today, from which a price of the list is valid."""
    from genai_prices import data_snapshot

    starts = (
        getattr(price.constraint, "start_date", None)
        for provider in data_snapshot.get_snapshot().providers
        for model in provider.models
        if isinstance(model.prices, list)
        for price in model.prices
    )
    return max(start for start in starts if start is not None and start <= _today())


def is_pinned(model: str) -> bool:
    """Whether a model's name has a date, so that its provider does not replace the model behind it."""
    return _DATE.search(model) is not None


def _find(model: str, base_url: str) -> ModelInfo | None:
    # The import takes a third of a second, and most configs do not need it.
    from genai_prices import data_snapshot

    snapshot = data_snapshot.get_snapshot()
    try:
        provider = snapshot.find_provider(None, None, base_url)
    except LookupError:
        return None
    names = [model, model.removeprefix(f"{provider.id}/")]
    found = (provider.find_model(name, all_providers=snapshot.providers) for name in names)
    return next((info for info in found if info is not None), None)


def _fields(price: ModelPrice) -> dict[str, Any] | None:
    """Returns a price of the package as the fields of `config.Price`; None without a price of input or output text."""
    values = {name: value for name, key in _NAMES.items() if (value := getattr(price, key, None)) is not None}
    if not {"input", "output"} <= values.keys():
        return None
    starts = sorted({tier.start for value in values.values() for tier in getattr(value, "tiers", [])})
    fields: dict[str, Any] = {name: _at(value, 0) for name, value in values.items()}
    if requests := getattr(price, "requests_kcount", None):
        fields["request"] = _at(requests, 0) / 1000
    if starts:
        fields["tiers"] = [
            {"above": start, **{name: _at(value, start + 1) for name, value in values.items()}} for start in starts
        ]
    return fields


def _at(price: Any, input_tokens: int) -> float:
    """Returns the price of a million tokens in a request with this number of input tokens."""
    value = getattr(price, "base", price)
    for tier in getattr(price, "tiers", []):
        if input_tokens > tier.start:
            value = tier.price
    return float(value)


def _today() -> date:
    return datetime.now(UTC).date()
