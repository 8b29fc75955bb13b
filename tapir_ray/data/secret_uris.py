"""Refuses URIs with a user, a password or a key, which would appear in files and messages.

refuse_secret("s3://id:key@bucket/runs/a")        # raises InputError, without the key
"""

from __future__ import annotations

from tapir_ray.errors import InputError
from tapir_ray.errors.redaction import SCHEME, URI, secret_of

_FOR_HTTP = (
    "name a variable in api_key_env, or copy rows and models to storage that takes its keys from the environment"
)
_FOR_HEAD = 'set RAY_JOB_HEADERS instead, such as \'{"Authorization": "Basic …"}\''


def refuse_secret(uri: str, what: str = "") -> None:
    """Raises InputError for a URI with a user, a password or a key, which would appear in files and messages.

    An override such as `a.b=URI` is checked too. `what` names the config key or option that holds the URI.
    """
    for place in (*URI.findall(uri), uri):
        if found := secret_of(place):
            scheme = SCHEME.search(place)
            assert scheme is not None
            raise InputError(f"{f'{what}: ' if what else ''}a URI of {scheme[0]} holds {_held(scheme[1], found, what)}")


def _held(scheme: str, found: str, what: str) -> str:
    if scheme.lower() in ("http", "https"):
        advice = _FOR_HEAD if what == "--address" else _FOR_HTTP
        return f"{found}, which files and messages would show; {advice}"
    return "a key; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
