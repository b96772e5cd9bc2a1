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
    """Say why these kernels cannot run on a device ("cuda", "cpu"), or None where they can.

    On the CPU they run in Triton's interpreter alone (TRITON_INTERPRET=1 in the environment), for tests.
    """
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device != "cuda":
        return f"Triton kernels need a CUDA GPU, and the model is on {device}"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU"
    capability = torch.cuda.get_device_capability()
    if capability < LEAST_CAPABILITY:
        return f"this GPU has compute capability {capability[0]}.{capability[1]}, Triton kernels need 8.0"
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        return "Triton needs a C compiler, and there is none on the PATH"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Triton needs Python's C headers (python3-dev), and they are not installed"
    return None


def gains_from_bf16() -> bool:
    """Whether bf16 is faster here: every GPU these kernels run on has it."""
    return True


def makers() -> Sequence[Maker]:
    """Return one maker per kind of module."""
    from isopatch.kernels.triton.blocks import make_convmixer

    return (make_convmixer,)
