"""What common models cost, for a config that names no price: `prices.yaml`, of the date it says.

known = listed_price("gpt-4.1-2025-04-14", base_url=None)        # {"input": 2.0, "cached_input": 0.5, "output": 8.0}
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

_DATE = re.compile(r"[-@_](?:20\d\d-?[01]\d-?[0-3]\d|2[0-9](?:0[1-9]|1[0-2])|(?:0[1-9]|1[0-2])[0-3]\d)(?=$|[-_:])")
"""2025-04-14, 20250414, 2411 (a year and a month) or 0613 (a month and a day), as the providers write them."""
DEFAULT_HOST = "api.openai.com"


def listed_price(model: str, base_url: str | None) -> dict[str, float] | None:
    """The list price of a model at its provider, None for any other model or endpoint."""
    host = urlsplit(base_url).hostname if base_url else DEFAULT_HOST
    for provider in _table()["providers"]:
        if host in provider["hosts"]:
            models: dict[str, dict[str, float]] = provider["models"]
            return models.get(model, models.get(_DATE.sub("", model)))
    return None


def date() -> str:
    """The day of the list."""
    return str(_table()["date"])


def is_pinned(model: str) -> bool:
    """Whether a model's name has a date, so that its provider does not put another model behind it."""
    return _DATE.search(model) is not None


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("prices.yaml").read_text())
    return table
