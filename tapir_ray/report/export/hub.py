"""Uploads the folder of an export to a Hugging Face hub.

    push(folder, "me/my-student", "model", private=True)         # the repository's URL

The token is that of HF_TOKEN alone, never of a file. HF_ENDPOINT names another hub. A failed upload is continued by the
same command: the hub tells which large files it has already.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError, StageError
from tapir_ray.errors.redaction import remember

TOKEN, ENDPOINT, HUB = "HF_TOKEN", "HF_ENDPOINT", "https://huggingface.co"
REPO = re.compile(r"[\w.-]+/[\w.-]+")
ATTEMPTS = 3
"""Attempts of an upload that the network or the hub has ended; each sends only what the hub lacks."""
DENIED = {401: "the hub does not know the token", 403: "the token may not write there"}


def check(repo: str) -> str:
    """Returns the token for an upload. Raises InputError for a wrong name of a repository, and without a token."""
    if not REPO.fullmatch(repo):
        raise InputError(f"--push {repo}: write OWNER/NAME, the repository on the hub")
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError("--push: HF_HUB_OFFLINE forbids it: unset it, or leave --push out")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise InputError(
            f"--push needs a token that may write, in the environment variable {TOKEN}; files are not read"
        )
    remember(token)
    return token


def push(folder: Path, repo: str, kind: str, private: bool) -> str:
    """Uploads all files of a folder to the repository `repo` of `kind` (`model` or `dataset`), and returns its URL.

    A repository that does not exist is created; one that exists keeps its visibility. Raises InputError if the token is
    refused, and StageError if the upload fails.
    """
    token = check(repo)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get(ENDPOINT, HUB).rstrip("/"), token=token)
    with _told(repo):
        # None leaves the visibility to the settings of the owner.
        url = api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True)
    with _quiet():
        for attempt in range(ATTEMPTS):
            try:
                with _told(repo):
                    api.upload_folder(
                        repo_id=repo, repo_type=kind, folder_path=str(folder), commit_message="Upload by tapir-ray"
                    )
                break
            except StageError:
                if attempt + 1 == ATTEMPTS:
                    raise
    return str(url)


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Context manager that turns errors of the hub into InputError or StageError."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in DENIED:
            raise InputError(f"--push {repo}: {DENIED[status]}: correct {TOKEN}, or the name of the owner") from error
        raise _failed(repo, error) from error
    except Exception as error:
        # Of the network, by whichever HTTP package the library uses, or its own; its cause says more.
        raise _failed(repo, error.__cause__ or error) from error


def _failed(repo: str, error: BaseException) -> StageError:
    return StageError(
        f"the upload to {repo} failed ({type(error).__name__}: {one_line(error)[:300]}); give the same command again "
        "to continue it"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager without the progress bars of huggingface_hub, which a file of output would be full of."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
