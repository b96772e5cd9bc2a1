"""Which role a folder or file plays by its name: train, val or test."""

from __future__ import annotations

import re

_ROLES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

ROLE_NAMES = "train, val (or valid, validation, dev), test"


def folder_role(name: str) -> str | None:
    """Return the role of a folder called `name` (in any case), or None for any other folder."""
    return _ROLES.get(name.casefold())


def file_role(stem: str) -> str | None:
    """Return the role of a shard such as `train-00000-of-00005`: its first word decides."""
    return _ROLES.get(re.split(r"[-_.]", stem, maxsplit=1)[0].casefold())
