"""Names of other libraries' models: `timm:NAME`, `torchvision:NAME`. Imports neither library, nor torch."""

from __future__ import annotations

import importlib
from types import ModuleType

from isopatch.errors import UsageError
from isopatch.models.entry import ModelEntry

LIBRARIES = ("timm", "torchvision")


def is_external(name: str) -> bool:
    """Whether a name is one of another library."""
    return name.startswith(tuple(f"{library}:" for library in LIBRARIES))


def external_entry(name: str) -> ModelEntry:
    """Return the entry of `timm:NAME` or `torchvision:NAME`; the library is imported, which takes seconds.

    Raises UsageError where the library has no such model.
    """
    library, _, model = name.partition(":")
    if not model:
        raise UsageError(f"{name} names no model: give one of {library}'s, for example {library}:resnet18")
    entry: ModelEntry = library_module(library).entry(model)
    return entry


def library_module(library: str) -> ModuleType:
    """Return our file about a library, which imports torch."""
    assert library in LIBRARIES, library
    return importlib.import_module(f"isopatch.models.external.{library}")
