"""Creates objects that must not exist yet: of several concurrent writers exactly one succeeds.

    created = create(fs, path, uri, b"…")      # True; False if it exists; None if the store cannot tell

A local disk does this with a hard link. S3 and GCS do it with a conditional write (`If-None-Match: *`), for which
pyarrow has no option: `obstore` sends it, with the credentials, region and endpoint that pyarrow uses. Some stores
reject such a write or ignore its condition; a second write of the same content detects them.
"""

from __future__ import annotations

import configparser
import logging
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pyarrow.fs as pafs

from tapir_ray.data.atomic_files import WRITING, sync

TRIES = 3
"""A store may reject a write because of a concurrent one that fails in the end; the write is then tried again."""
RETRIES: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
TIMEOUTS: Any = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=20)}


def create(fs: pafs.FileSystem, path: str, uri: str, content: bytes) -> bool | None:
    """Writes an object that must not exist yet. `uri` is any URI of its store, with the options that name an endpoint.

    Returns True if this call wrote it, False if another writer did. Returns None if the store has no working
    conditional writes; the object may then exist or not. Raises OSError for a local disk that cannot be written to.
    """
    if isinstance(fs, pafs.LocalFileSystem):
        return _create_local(path, content)
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError

    bucket, _, key = path.partition("/")
    try:
        store = _store(fs, bucket, uri)
        if store is None:
            return None
        for _ in range(TRIES):
            try:
                # Not in parts: the condition holds for a single request.
                obstore.put(store, key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                found = _read(fs, path)
                if found is None:
                    continue
                # A write whose answer was lost is sent again, and then finds itself.
                return found == content
            try:
                obstore.put(store, key, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return True
            return None  # written twice: the store ignores the condition
    except (BaseError, OSError, ValueError) as error:
        logging.getLogger(__name__).debug("no conditional write to %s: %s", uri, error)
    return None


def _create_local(path: str, content: bytes) -> bool:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/{WRITING}{os.urandom(16).hex()}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            mine = os.fstat(file.fileno())
        sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # NFS may send the request twice and report on the second; same inode means that the link is ours.
            return os.path.samestat(mine, os.stat(path))
        except OSError:  # a filesystem without hard links, such as some network shares
            return _copy_new(content, path)
        sync(folder)
        return True
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _copy_new(content: bytes, path: str) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    sync(path)
    return True


def _read(fs: pafs.FileSystem, path: str) -> bytes | None:
    try:
        with fs.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def _store(fs: pafs.FileSystem, bucket: str, uri: str) -> Any:
    """The obstore store for the bucket of a pyarrow filesystem; None if obstore lacks an equal for its settings."""
    from obstore.store import GCSStore, S3Store

    options = {name: values[-1] for name, values in parse_qs(uri.partition("?")[2]).items()}
    if isinstance(fs, pafs.S3FileSystem):
        endpoint = _endpoint(options)
        if endpoint and options.get("force_virtual_addressing") == "true":
            return None
        settings: dict[str, Any] = {"region": fs.region, **_credentials(options)}
        if endpoint:
            settings["endpoint"] = endpoint
        elif len(settings) == 1 and os.environ.get("AWS_EC2_METADATA_DISABLED") == "true":
            return None  # no credentials to sign with
        client: Any = {**TIMEOUTS, "allow_http": endpoint.startswith("http://")}
        return S3Store(bucket, client_options=client, retry_config=RETRIES, **settings)
    if isinstance(fs, pafs.GcsFileSystem):
        emulator = os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT", "")
        if "endpoint_override" in options or emulator:
            place = options.get("endpoint_override") or emulator
            base = place if "://" in place else f"{options.get('scheme', 'https')}://{place}"
            client = {**TIMEOUTS, "allow_http": base.startswith("http://")}
            return GCSStore(bucket, base_url=base, skip_signature=True, client_options=client, retry_config=RETRIES)
        return GCSStore(bucket, client_options=TIMEOUTS, retry_config=RETRIES)
    return None


def _endpoint(options: dict[str, str]) -> str:
    """The URL of an S3-compatible server that is not Amazon's; "" for Amazon's."""
    if place := options.get("endpoint_override"):
        return place if "://" in place else f"{options.get('scheme', 'https')}://{place}"
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _credentials(options: dict[str, str]) -> dict[str, Any]:
    """Credentials from the environment, else from the user's profile; {} leaves them to the machine's role.

    The profile is read here because obstore does not read it, and pyarrow does.
    """
    if options.get("anonymous") == "true":
        return {"skip_signature": True}
    names = {
        "access_key_id": "aws_access_key_id",
        "secret_access_key": "aws_secret_access_key",
        "token": "aws_session_token",
    }
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {ours: value for ours, name in names.items() if (value := os.environ.get(name.upper()))}
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    profiles = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, OSError):
        profiles.read(file)
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    if profile not in profiles:
        return {}
    return {ours: value for ours, name in names.items() if (value := profiles[profile].get(name))}
