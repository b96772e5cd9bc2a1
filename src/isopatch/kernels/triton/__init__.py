"""Twins for GPUs, written in Triton. Triton itself is imported by `makers`, not before."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch

from isopatch.kernels.twin import Maker

# What Triton supports, and the first with bf16 products.
LEAST_CAPABILITY = (8, 0)


def unavailable(device: str) -> str | None:
    """Say why these kernels cannot run on a device ("cuda:1", "cpu"), or None where they can.

    "cuda" is the current GPU. On the CPU they run in Triton's interpreter alone (TRITON_INTERPRET=1 in the
    environment), for tests.
    """
    kind = torch.device(device).type
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if kind == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if kind != "cuda":
        return f"Triton kernels need a CUDA GPU, and the model is on {kind}"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU"
    reason = too_old(torch.device(device))
    if reason is not None:
        return reason
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "Triton needs a C compiler, and there is none on the PATH"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Triton needs Python's C headers (python3-dev), and they are not installed"
    return None


def too_old(device: torch.device) -> str | None:
    """Say why these kernels cannot run on a GPU of this generation, or None where they can."""
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) >= LEAST_CAPABILITY:
        return None
    return f"this GPU has compute capability {major}.{minor}, Triton kernels need 8.0"


def gains_from_bf16() -> bool:
    """Whether bf16 is faster here: every GPU these kernels run on has it."""
    return True


def makers() -> Sequence[Maker]:
    """Return one maker per kind of module."""
    from isopatch.kernels.triton.blocks import make_convmixer

    return (make_convmixer,)
