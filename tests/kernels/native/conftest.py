"""The native kernels under test: every instruction set this CPU has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from isopatch.kernels.native.library import NativeLibrary, library


@pytest.fixture
def native() -> Iterator[NativeLibrary]:
    """The library; its instruction set and PyTorch's threads are put back."""
    found = library()
    if isinstance(found, str):
        pytest.skip(found)
    before, threads = found.instructions, torch.get_num_threads()
    yield found
    found.choose(before)
    torch.set_num_threads(threads)
