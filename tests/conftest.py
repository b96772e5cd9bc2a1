"""What every test shares: one thread per process, and the folder of shared real data."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported. Test processes share the machine's cores; results do not depend on the order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Triton decides when it is imported, by whatever test comes first, whether its kernels run in Python on the
# CPU. Nothing else here uses Triton. Tests on a GPU are run with TRITON_INTERPRET=0.
os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread and one seed, whatever a test before this one set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def needs_native() -> Iterator[None]:
    """Skips where the native kernels are not there; the instruction set is put back."""
    from isopatch.kernels import native

    reason = native.unavailable("cpu")
    if reason is not None:
        pytest.skip(reason)
    with native.kept_instructions():
        yield


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if isopatch had been installed without a compiler."""
    from isopatch.kernels import native

    monkeypatch.setattr(native, "library", lambda: "the native kernels were taken away for this test")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder ISOPATCH_DATA names: cifar10/, trashnet/, odd-images/. Tests skip where there is none."""
    folder = os.environ.get("ISOPATCH_DATA")
    if not folder:
        pytest.skip("ISOPATCH_DATA is not set")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.skip(f"ISOPATCH_DATA: {path} is no folder")
    return path
