"""Recognises files and folders that are likely to hold credentials, by their names and the start of their content.

may_hold_key(Path(".aws"))                         # True: nothing of this folder is sent
may_hold_key(Path("deploy/gcp-key-prod.json"))     # True
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

from tapir_ray.errors.redaction import holds_key

NAMES = (
    # environment files
    ".env*", "*.env",
    # private keys and stores of keys
    "*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.pkcs12", "*.ppk", "*.keystore", "*.jks", "*.kdb", "*.kdbx", "*.ovpn",
    "*.agekey", "*.sops.*", ".sops", "secring.*",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "id_xmss*",
    # secrets by name, in any format
    "secrets.*", ".secrets", "secrets", ".secret",
    # version control and package managers
    ".git-credentials*", "git-credentials", ".gitcookies", ".npmrc", ".pypirc", ".yarnrc", ".yarnrc.yml",
    "pip.conf", "pip.ini", ".condarc", "auth.toml", "auth.json", ".gem", "nuget.config",
    # logins to hosts and databases
    ".netrc*", "_netrc", ".authinfo*", "authinfo", ".msmtprc", ".fetchmailrc", ".cvspass", ".rhosts", ".wgetrc",
    ".curlrc", ".hgrc", ".lftp", ".mutt", "cookies.txt", "cookies.sqlite", "*.htpasswd", "*.secret", "*.secrets",
    "ssh_host_*_key", ".gnupg", ".password-store", ".pgpass", "pgpass.conf", ".my.cnf", ".mylogin.cnf", ".htpasswd",
    "htpasswd", ".vault-token", ".vault_pass*", "vault_pass*", ".ansible_vault*", "rclone.conf", ".passwd-s3fs",
    # clouds
    ".aws", ".azure", ".gcloud", ".oci", ".aliyun", ".boto", ".s3cfg", "application_default_credentials.json",
    ".databrickscfg", ".snowflake", ".snowsql", ".modal.toml", "kaggle.json", "*firebase-adminsdk*.json",
    "*.publishsettings", "rootkey.csv", "accesskeys.csv", "*_accesskeys.csv", ".bluemix", ".linode-cli", ".hcloud",
    ".mc", ".fly", ".doctl", ".op", ".stripe", ".ngrok2", "ngrok.yml", ".argocd", ".netlify", ".sky", ".runpod",
    ".lambda_cloud", ".replicate", ".openai", ".anthropic", ".claude.json", ".comet.config",
    # containers and infrastructure
    ".kube", "kube.config", "kubeconfig", "*.kubeconfig", ".dockercfg", ".dockerconfigjson", ".terraformrc",
    "terraform.rc", ".terraform.d", "*.tfstate", "*.tfstate.*", "*.tfvars", "*.tfvars.json", "*.tfrc.json",
    # tokens of model hubs and trackers
    "token", "token.json", "token.txt", ".token", "*.token", "hf_token*", ".hf_token*", ".huggingface", "stored_tokens",
    # shell histories
    ".*_history",
)  # fmt: skip
"""Patterns of names of files and folders; case does not matter."""
PLACES = (
    ".ssh/*", ".config/gcloud", ".config/gh", ".config/hub", ".config/containers/auth.json", ".docker/config.json",
    ".m2/settings.xml", ".m2/settings-security.xml", ".gradle/gradle.properties", "wandb/settings", ".dbt/profiles.yml",
    "age/keys.txt", ".config/glab-cli", ".config/github-copilot", ".config/op", ".config/doctl", ".config/hcloud",
    ".config/argocd", ".config/anthropic", ".config/openai", ".config/stripe", ".config/ngrok", ".cf/config.json",
    ".bundle/config", ".hex/hex.config", ".subversion/auth", "profile_*/history.sqlite",
    ".cargo/credentials*", ".kaggle/*.json", ".wandb/settings",
)  # fmt: skip
"""Patterns of names with their folders, for names that are harmless elsewhere."""
WORDS = {
    "secret", "secrets", "credential", "credentials", "creds", "password", "passwords", "passwd", "passphrase",
    "apikey", "apikeys", "serviceaccount", "kubeconfig",
}  # fmt: skip
PAIRS = {
    f"{first} {second}"
    for first, seconds in {
        "api": ("key", "keys", "token", "tokens"),
        "access": ("key", "keys", "token", "tokens"),
        "auth": ("key", "token", "tokens"),
        "bearer": ("token",),
        "bot": ("token",),
        "private": ("key", "keys"),
        "secret": ("key", "keys"),
        "service": ("account", "accounts"),
        "gcp": ("key", "keys", "sa"),
        "google": ("key", "keys"),
        "gcloud": ("key", "keys"),
        "aws": ("key", "keys"),
        "azure": ("key", "keys"),
        "openai": ("key", "keys"),
        "anthropic": ("key", "keys"),
        "ssh": ("key", "keys"),
        "deploy": ("key", "keys"),
        "sa": ("key", "keys"),
        "hf": ("token", "tokens"),
        "refresh": ("token",),
    }.items()
    for second in seconds
}
"""Pairs of words that, like each of WORDS, mark the name of a file of DATA: `openai_key.txt`."""
DATA = {
    "", ".cfg", ".conf", ".config", ".csv", ".db", ".enc", ".env", ".ini", ".json", ".json5", ".plist", ".properties",
    ".toml", ".txt", ".xml", ".yaml", ".yml", ".bak", ".old", ".orig", ".asc", ".gpg", ".backup", ".local", ".sqlite",
}  # fmt: skip
"""Suffixes of data files. `credentials.py` is source code and is sent; `secrets.py` is left out all the same."""
KEY_FOLDERS = {"secrets", ".secrets", ".secret"}
"""Folders of NAMES that are sent if they are Python packages."""
FIELDS = {
    "private_key", "client_secret", "refresh_token", "secret_access_key", "aws_secret_access_key", "secretaccesskey",
    "api_key", "apikey", "access_token", "auths", "password", "accesstoken", "refreshtoken", "secretkey", "oauth_token",
    "auth_token", "authtoken",
}  # fmt: skip
"""Keys of a JSON object whose values are credentials."""
LARGEST = 64 * 2**10
"""Bytes of a file that are searched, and largest size of a JSON file with credentials."""
PEM = re.compile(rb"\s*(-----BEGIN [A-Z ]*PRIVATE KEY|PuTTY-User-Key-File|\$ANSIBLE_VAULT|AGE-SECRET-KEY-)")
SCRIPTS = {".sh", ".bash", ".zsh", ".fish", ".ps1", ".bat", ".cmd", ".crt", ".cer"}
"""Further suffixes of small files that, like those of DATA, are searched for keys in the formats of providers."""

LINES = re.compile(
    rb"(?mi)^(kind:[ \t]*Secret[ \t]*\r?$|[ \t]*aws_secret_access_key[ \t]*=[ \t]*\S|[^\s#]*_authToken[ \t]*=[ \t]*\S"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY|machine[ \t]+\S+[ \t]+login[ \t]|# (?:Netscape )?HTTP Cookie File"
    rb"|[ \t]*[\"']?(?:o?auth[_-]?token|access[_-]?token|refresh[_-]?token|api[_-]?key|client[_-]?secret|secret[_-]?key"
    rb"|client-key-data)[\"']?[ \t]*[:=][ \t]*[\"']?[A-Za-z0-9+/=_.-]{16,}[\"']?[ \t]*\r?$)"
)
"""Lines of a Kubernetes Secret, an AWS profile, a login, or a token in the settings of a tool; for files of DATA."""


def may_hold_key(entry: Path) -> bool:
    """Returns whether a file or folder is likely to hold credentials; for a link, its target or a folder above it."""
    if _named_so(entry, entry.is_dir()):
        return True
    if entry.is_symlink():
        target = entry.resolve()
        if any(_named_so(place, place.is_dir()) for place in (target, *target.parents) if place.name):
            return True
    return entry.is_file() and _begins_so(entry)


def _named_so(entry: Path, is_folder: bool) -> bool:
    path = PurePath(str(entry).lower())
    name = path.name
    if is_folder and name in KEY_FOLDERS:
        return not (entry / "__init__.py").is_file()
    if any(fnmatchcase(name, pattern) for pattern in NAMES):
        return True
    if any(fnmatchcase("/".join(path.parts[-place.count("/") - 1 :]), place) for place in PLACES):
        return True
    return not is_folder and _data_of_keys(entry.name)


def _data_of_keys(name: str) -> bool:
    stem, dot, ending = name.lstrip("._").rpartition(".")
    stem, ending = (stem, f".{ending.lower()}") if dot else (ending, "")
    if ending not in DATA or name.lower() == "secret.txt":  # a common name for ordinary text
        return False
    words = re.findall(r"[a-z]+|[0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", stem).lower())
    if not WORDS.isdisjoint(words) or any(f"{a} {b}" in PAIRS for a, b in pairwise(words)):
        return True
    return not ending and re.search(r"[_.-](rsa|dsa|ecdsa|ed25519)$", stem.lower()) is not None


def _begins_so(file: Path) -> bool:
    """Returns whether the content begins like a private key, or is JSON with credentials, as clouds and hubs issue."""
    try:
        with file.open("rb") as stream:
            head = stream.read(LARGEST + 1)
    except OSError:
        return False  # `pack` raises the error
    ending = file.suffix.lower()
    if PEM.match(head) or (ending in DATA and LINES.search(head)):
        return True
    if len(head) > LARGEST:
        return False
    if ending in DATA | SCRIPTS and holds_key(head.decode(errors="replace")):
        return True
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return False
    try:
        return _is_credential(json.loads(head.decode("utf-8-sig")))
    except (ValueError, RecursionError):
        return False


def _is_credential(value: Any) -> bool:
    """Returns whether a JSON object, or a section of it (`installed`, `web`), has a type or field of credentials."""
    if not isinstance(value, dict):
        return False
    sections = [value, *(part for part in value.values() if isinstance(part, dict))]
    return any(
        part.get("type") in ("service_account", "authorized_user", "external_account")
        or any(str(key).lower() in FIELDS and found and isinstance(found, str | dict) for key, found in part.items())
        for part in sections
    )
