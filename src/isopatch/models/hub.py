"""Weights from the Hugging Face hub, or from its cache when there is no network."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from isopatch.errors import IsopatchError
from isopatch.models.native import CONFIG, read_config


def download(hub_id: str) -> tuple[Path, dict[str, Any]]:
    """Return (weights file, config.json) of `owner/name` or `owner/name@revision`.

    Files are kept in the hub's own cache (HF_HOME), which also serves offline; HF_HUB_OFFLINE is honoured.
    Raises IsopatchError in one line when the model does not exist or cannot be reached.
    """
    repository, _, revision = hub_id.partition("@")
    config = read_config(_fetch(repository, CONFIG, revision or None))
    if "model_type" in config:  # transformers says beside it how pictures are prepared
        with suppress(IsopatchError):
            _fetch(repository, "preprocessor_config.json", revision or None)
    try:
        return _fetch(repository, "model.safetensors", revision or None), config
    except IsopatchError as safe:
        try:
            return _fetch(repository, "pytorch_model.bin", revision or None), config
        except IsopatchError:
            raise safe from None


def _fetch(repository: str, filename: str, revision: str | None) -> Path:
    """Download one file, or find it in the cache."""
    # One second of import, and only this function needs it.
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        local_only = constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)
        return Path(hf_hub_download(repository, filename, revision=revision, local_files_only=local_only))
    except LocalEntryNotFoundError:
        raise IsopatchError(
            f"hub model {repository}: {filename} is not in the cache and the hub cannot be reached; connect "
            f"once, or give a local file with its model name"
        ) from None
    except EntryNotFoundError:
        raise IsopatchError(f"hub model {repository} has no {filename}") from None
    except GatedRepoError:
        raise IsopatchError(
            f"hub model {repository} is gated: accept its terms and log in with 'hf auth login'"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        at = f" at revision {revision}" if revision else ""
        raise IsopatchError(f"hub model {repository}{at} does not exist (or is private)") from None
    except Exception as error:  # the network fails in many types: one line for all of them
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise IsopatchError(f"hub model {repository}: download of {filename} failed ({first})") from None


def reachable(endpoint: str) -> bool:
    """Whether a server answers, asked once: the hub's client retries for half a minute before it gives up."""
    if getproxies():
        return True  # a proxy decides; a direct connection says nothing
    address = urlsplit(endpoint)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True
