"""Task-aware curriculum planning for instruction distillation, on Ray.

    import tapir_ray as tapir

    tapir.check("mine.yaml").cost                     # dollars, before anything is spent
    run = tapir.run("mine.yaml", until="generate")    # start, or continue
    run.table("generated", round=1).to_pandas()

Importing the package is cheap: Ray, torch and vLLM are imported by the first call that needs them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapir_ray.api.check import check as check
    from tapir_ray.api.classify import classify as classify
    from tapir_ray.api.evaluate import evaluate as evaluate
    from tapir_ray.api.forecast import Forecast as Forecast
    from tapir_ray.api.judge import judge as judge
    from tapir_ray.api.preview import Preview as Preview
    from tapir_ray.api.preview import preview as preview
    from tapir_ray.api.regenerate import regenerate as regenerate
    from tapir_ray.api.run import Run as Run
    from tapir_ray.api.run import run as run
    from tapir_ray.api.tables import Table as Table
    from tapir_ray.config import Config as Config
    from tapir_ray.config.shipped import shipped_configs as shipped_configs
    from tapir_ray.errors import InputError as InputError
    from tapir_ray.errors import StageError as StageError
    from tapir_ray.errors import Stopped as Stopped
    from tapir_ray.errors import TapirError as TapirError

_MODULES = {
    "check": "api.check",
    "classify": "api.classify",
    "evaluate": "api.evaluate",
    "Forecast": "api.forecast",
    "judge": "api.judge",
    "Preview": "api.preview",
    "preview": "api.preview",
    "regenerate": "api.regenerate",
    "Run": "api.run",
    "run": "api.run",
    "Table": "api.tables",
    "Config": "config",
    "shipped_configs": "config.shipped",
    "InputError": "errors",
    "StageError": "errors",
    "Stopped": "errors",
    "TapirError": "errors",
}
"""Module of each public name."""

__all__ = [*_MODULES]


class _Package(ModuleType):
    """Module whose public names are never replaced by its packages `run` and `evaluate`.

    Python sets a package as attribute of its parent when it is first imported. `from tapir_ray.run import …` does not
    use that attribute.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
