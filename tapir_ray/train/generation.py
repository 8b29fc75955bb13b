"""Adapts the base model's generation config to an exported student: sets end tokens, drops keys that are not writable.

    left_out = adapt(model.generation_config, tokenizer, stop_token_ids(tokenizer, kwargs))      # ["early_stopping"]

transformers reads configs that it refuses to write, such as one with `early_stopping` and no beams.
"""

from __future__ import annotations

import copy
from typing import Any

from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError

WITHOUT_EFFECT: dict[str, float | None] = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Sampling flags with their neutral values. With other values, transformers writes a generation config only if it has
`do_sample` (`GenerationConfig.validate`)."""

_FIRST = ("do_sample", "num_beams", "use_cache", "return_dict_in_generate", "eos_token_id", "pad_token_id")
"""Keys to try first, because the validity of others depends on them."""


def adapt(config: Any, tokenizer: Any, stops: list[int]) -> list[str]:
    """Sets the end tokens of a generation config and drops the keys that cannot be written; returns these keys.

    Sampling flags without `do_sample` turn sampling on. With `do_sample: false` or a temperature of 0 they are dropped.
    Raises InputError if the remaining config cannot be written.
    """
    config.eos_token_id = stops if len(stops) > 1 else stops[0]
    if config.pad_token_id is None or config.pad_token_id < 0:
        config.pad_token_id = tokenizer.pad_token_id
    left_out = []
    flagged = [flag for flag, value in WITHOUT_EFFECT.items() if getattr(config, flag) not in (None, value)]
    if flagged and not config.do_sample:
        config.do_sample = config.do_sample is None and config.temperature != 0
        if not config.do_sample:
            left_out = flagged
            for flag in WITHOUT_EFFECT:
                setattr(config, flag, None)
    left_out += _leave_out_invalid(config)
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise InputError(
            f"generation_config.json: a student with it could not be written ({one_line(error)[:200]})"
        ) from error
    return left_out


def _leave_out_invalid(config: Any) -> list[str]:
    """Resets keys that cannot be written to their defaults; returns their names.

    Adds the keys to a default config one by one: a key is invalid if the config with it and the ones before it is.
    """
    defaults = vars(type(config)())
    given = [name for name, value in vars(config).items() if not name.startswith("_") and value != defaults.get(name)]
    tried, left_out = type(config)(), []
    for name in sorted(given, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)):
        before = copy.copy(tried)
        setattr(tried, name, getattr(config, name))
        try:
            tried.validate(strict=True)
        except ValueError:
            tried = before
            left_out.append(name)
            # Keys that transformers does not know have no default.
            if name in defaults:
                setattr(config, name, defaults[name])
            else:
                delattr(config, name)
    return left_out
