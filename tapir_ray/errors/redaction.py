"""Finds keys and passwords in a text and replaces them by stars.

    redacted("https://h/v1?api_key=abc refused")      # "https://h/v1?api_key=*** refused"
    secret_of("s3://id:key@bucket/runs")              # "a user or password"

A key from a variable named in `api_key_env` is starred anywhere in a text. This module imports no other of tapir-ray,
because every error of tapir-ray shows its text through it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote

STARS = "***"
SHORTEST = 8
"""Fewest characters of a value that is starred; a shorter one may be part of any text."""
LAST_WORDS = {
    "key", "keys", "token", "secret", "password", "passwd", "passphrase", "signature", "credential", "credentials",
    "authorization",
}  # fmt: skip
"""Last words of names that hold a key: `api_key`, `X-Amz-Signature`, `subscription-key`."""
WHOLE = {
    "apikey", "xapikey", "accesskey", "secretkey", "authkey", "accountkey", "subscriptionkey", "privatekey",
    "sharedkey", "accesstoken", "authtoken", "bearertoken", "idtoken", "refreshtoken", "sessiontoken", "securitytoken",
    "hftoken", "clientsecret", "appsecret", "authorization", "proxyauthorization", "auth", "bearer", "jwt", "pwd",
    "pass", "cookie", "ocpapimsubscriptionkey", "xamzsignature", "xgoogsignature", "xamzsecuritytoken",
    "awsaccesskeyid",
}  # fmt: skip
IN_QUERIES = {"code", "sig", "sas", "hmac", "pw"}
"""Names that hold a key only in the query of a URL."""
HARMLESS = {
    "promptcachekey", "cachekey", "stoptoken", "bostoken", "eostoken", "padtoken", "unktoken", "masktoken",
    "thinktoken", "septoken", "clstoken", "imagetoken", "sortkey", "partitionkey", "primarykey", "foreignkey",
    "tokenkey",
}  # fmt: skip
"""Names that look like those of keys, in the body of a request or in the arguments of an engine, and hold none."""
# Names are bounded: else each letter of a word of a million letters would be tried as the begin of one that goes to the
# end. Of a longer name the last letters count.
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,63})://")
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}://[^\s'\"<>]+")
KEYS = re.compile(
    r"\b(?:sk|pk|rk)-[A-Za-z0-9_*-]{8,}"
    r"|\b(?:gsk|hf|ghp|gho|ghs|ghu|ghr|r8|fw)_[A-Za-z0-9*]{16,}"
    r"|\b(?:github_pat_|tgp_v1_|glpat-|nvapi-|pplx-|csk-|xai-|xox[abposr]-)[A-Za-z0-9_*-]{16,}"
    r"|\bAKIA[0-9A-Z]{12,}|\bASIA[0-9A-Z]{12,}|\bAIza[0-9A-Za-z_-]{20,}|\bya29\.[0-9A-Za-z_-]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}(?:\.[A-Za-z0-9_-]*)?"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
)
"""Keys in the formats of providers."""
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~*-]{8,}")
QUOTED = re.compile(r"(?i)(key (?:provided|given)\s*[:=]\s*['\"]?)([^\s'\",;]+)")
"""The quotation of a rejected key, whole or in part, by an endpoint: `Incorrect API key provided: abcd****wxyz`."""
NAMED = re.compile(
    r"""(?P<name>[A-Za-z][A-Za-z0-9_.-]{0,127})(?P<sign>["']?\s*[=:]\s*["']?)(?P<value>[^\s"'&,;{}\[\]]{4,})"""
)

_known: set[str] = set()


def remember(key: str) -> None:
    """Registers a key that `redacted` stars in every text of this process from now on."""
    if len(key) >= SHORTEST:
        _known.add(key)


def names_a_key(name: str, in_query: bool = False) -> bool:
    """Returns whether a parameter, header or argument of this name holds a key: `api_key`, `X-Amz-Signature`."""
    name = name.rpartition(".")[2]  # of a nested config key
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    if plain in HARMLESS and not in_query:
        return False
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower())
    return (
        plain in WHOLE
        or (in_query and plain in IN_QUERIES)
        or (bool(words) and words[-1] in LAST_WORDS and (in_query or words != ["keys"]))
        or plain.endswith(("apikey", "secretkey", "accesskey", "password", "accesstoken"))
    )


def looks_like_a_key(text: str) -> bool:
    """Returns whether a text that should be the name of a variable is likely to be a key itself."""
    if is_key(text):
        return True
    mixed = re.search(r"[a-z]", text) and re.search(r"\d", text)
    return len(text) >= 20 and "_" not in text and bool(mixed)


def is_key(value: str) -> bool:
    """Returns whether the whole text is a key in the format of a provider."""
    return len(value) >= 20 and re.search(r"\d", value) is not None and KEYS.fullmatch(value) is not None


def holds_key(text: str) -> bool:
    """Returns whether a text contains a key in the format of a provider, with 16 letters and digits in a row, so that
    words with a hyphen do not match."""
    found = (match[0] for match in KEYS.finditer(text))
    return any(is_key(key) and re.search(r"[A-Za-z0-9_]{16,}", key) is not None for key in found)


def secret_of(uri: str) -> str | None:
    """The kind of secret in a URI (`a user or password`, `a key in its query (api_key)`); None without one."""
    scheme = SCHEME.search(uri)
    if scheme is None:
        return None
    rest = uri[scheme.end() :]
    if _has_user(scheme[1].lower(), rest):
        return "a user or password"
    place, _, options = rest.partition("?")
    options, _, fragment = options.partition("#")
    fragment = fragment or place.partition("#")[2]
    for name, value in [*_options(options), *_options(fragment)]:
        if value and names_a_key(name, in_query=True):
            return f"a key in its query ({name})"
        if value and (secret_of(value) or re.search(r":[^/@]+@", value)):
            return f"a key in its query ({name})"
    return None


def redacted(text: str) -> str:
    """The text with keys, passwords in URIs and secret parameters starred."""
    # Longest first: a key may contain another one.
    for key in sorted({*_known, *_environment()}, key=len, reverse=True):
        text = text.replace(key, STARS)
    text = URI.sub(lambda found: _starred(found[0]), text)
    text = BEARER.sub(lambda found: f"{found[1]} {STARS}", text)
    text = KEYS.sub(STARS, text)
    text = QUOTED.sub(lambda found: found[1] + STARS, text)
    return NAMED.sub(_starred_value, text)


def _has_user(scheme: str, rest: str) -> bool:
    """Returns whether the rest of a URI after its scheme has a user or password; either may contain `/` or `?`."""
    if "@" not in rest:
        return False
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        # Azure writes `container@account` before the path; only with a colon would it be a password.
        return not (scheme in ("abfs", "abfss", "wasb", "wasbs") and ":" not in host.rpartition("@")[0])
    # A password may contain a slash. Then the text before it has a colon, and after it something else than a port.
    port = host.partition(":")[2]
    return bool(port) and not (port.isdigit() and scheme in ("http", "https"))


def _options(query: str) -> list[tuple[str, str]]:
    return [pair for part in re.split("[&;]", query) for pair in parse_qsl(part, keep_blank_values=True)]


def _environment() -> Iterator[str]:
    """Values of the environment variables with the name of a key; a path, as of a key's file, is none."""
    for name, value in os.environ.items():
        # A value that begins with a slash is the path of a file.
        if len(value) >= SHORTEST and names_a_key(name) and "/" not in value[:1]:
            yield value


def _starred(uri: str) -> str:
    scheme = SCHEME.match(uri)
    assert scheme is not None
    rest = uri[scheme.end() :]
    if _has_user(scheme[1].lower(), rest):
        rest = f"{STARS}@{rest[rest.rfind('@') + 1 :]}"
    place, mark, options = rest.partition("?")

    def star(found: re.Match[str]) -> str:
        name, value = unquote(found[1]), unquote(found[2])
        secret = names_a_key(name, in_query=True) or secret_of(value) or re.search(r":[^/@]+@", value)
        return f"{found[1]}={STARS}" if value and secret else found[0]

    options = re.sub(r"([^=&;#?]+)=([^&;#\s]*)", star, options)
    if "#" in place:
        head, _, fragment = place.partition("#")
        place = f"{head}#{re.sub(r'([^=&;]+)=([^&;]*)', star, fragment)}"
    return f"{scheme[0]}{place}{mark}{options}"


def _starred_value(found: re.Match[str]) -> str:
    # "the key: …" and "unexpected token: …" are phrases of a message, not names of a key.
    bare = found["name"].lower() in ("key", "keys") or (found["name"].lower() == "token" and "=" not in found["sign"])
    if bare or not names_a_key(found["name"]):
        return found[0]
    return f"{found['name']}{found['sign']}{STARS}"
