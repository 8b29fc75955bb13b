"""Refuses credentials in configs and command lines, since files and messages would show them.

refuse_secrets(content)               # InputError that names the key, such as teacher.extra_body.token
refuse_words(sys.argv[1:])
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from tapir_ray.config.yaml_files import read_yaml
from tapir_ray.data.secret_uris import refuse_secret
from tapir_ray.errors import InputError
from tapir_ray.errors.redaction import BEARER, holds_key, is_key, names_a_key

_INSTEAD = "set an environment variable instead, and name it in api_key_env"


def refuse_words(words: Sequence[str]) -> None:
    """Raises InputError for a command line with a credential: in a URI, or as `--set a.api_key=VALUE`.

    Other users of the machine see command lines, and the run stores them in `attempts/`.
    """
    option = ""
    for word in words:
        option = word.partition("=")[0] if word.startswith("--") else option
        refuse_secret(word, option)
        if option != "--rows":  # takes TASK=FILE, and a task may be called Passwords
            _refuse_value(word)


def _refuse_value(word: str) -> None:
    name, sign, value = word.partition("=")
    name = name.lstrip("-")
    if sign and value not in ("", "null", "~") and re.fullmatch(r"[\w.-]+", name):
        if names_a_key(name) and value.lower() not in ("true", "false"):
            raise InputError(f"{name} holds a key, which other users can read in the list of processes: {_INSTEAD}")
        refuse_secrets(_content(value), name)
        if is_key(value):
            raise InputError(
                f"the value of {name} is a key, which other users can read in the list of processes: {_INSTEAD}"
            )


def _content(value: str) -> Any:
    with suppress(InputError):  # `load` reads the value again and reports the error
        return read_yaml(value, "").value
    return value


def refuse_secrets(content: Any, place: str = "") -> None:
    """Raises InputError for a config that holds a credential. The message names the key and hides the value."""
    for key, value in _leaves(content, place):
        name = key.rpartition(".")[2]
        if not isinstance(value, str) or not value:
            continue
        refuse_secret(value if name != "base_url" or "://" in value else f"https://{value.lstrip('/')}", key)
        # `image_token: <image>` is a special token of a tokenizer, not a credential.
        named = names_a_key(name) and not (name.lower().endswith("token") and value[0] in "<[|")
        if named or BEARER.match(value) or is_key(value) or holds_key(value):
            raise InputError(f"{key} holds a key, which the run's files would show: {_INSTEAD}")


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, place)
    else:
        yield place, value
