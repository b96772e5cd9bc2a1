"""Published weights of other libraries' models: from the hub, or an address whose file name has a digest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from isopatch.errors import IsopatchError, UsageError
from isopatch.files import sha256_of
from isopatch.models.external.names import library_module
from isopatch.models.hub import download, reachable

_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.")  # torch.hub's convention: name-<start of the SHA-256>.pth


def published_weights(name: str) -> tuple[Path, dict[str, Any] | None]:
    """Return (weights file, config.json beside it) of `timm:NAME` or `torchvision:NAME`, downloaded once.

    Raises UsageError for a name that does not exist or has no published weights, IsopatchError where they
    cannot be had.
    """
    library, _, model = name.partition(":")
    place: str | None = library_module(library).published(model)
    if place is None:
        raise without_weights(name)
    return (fetch(place), None) if "://" in place else download(place)


def without_weights(name: str) -> UsageError:
    """The error about a name that stands where trained weights are asked for."""
    return UsageError(f"{name} is a model without weights here: give a run, a file or a hub id")


def fetch(address: str) -> Path:
    """Return the file of an address, from torch.hub's cache (TORCH_HOME) or downloaded into it.

    Its digest is compared with the one in its name each time. Raises IsopatchError in one line.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(address).path).name
    found = _DIGEST.search(path.name)
    if not path.is_file():
        if not reachable(address):
            raise IsopatchError(
                f"{address}: not in the cache ({path.parent}) and cannot be reached; connect once, or put "
                f"the file there"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(path), progress=False)
        except Exception as error:  # the network fails in many types: one line for all of them
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise IsopatchError(f"{address}: download failed ({first})") from None
    if found is not None and not sha256_of(path).startswith(found.group(1)):
        raise IsopatchError(f"{path}: damaged, its SHA-256 is not the one in its name; delete it")
    return path
