"""Twins for x86-64 CPUs, written in C++ (`native/`)."""

from __future__ import annotations

from collections.abc import Sequence

from isopatch.kernels.native import convmixer_blocks, stem
from isopatch.kernels.native.library import library
from isopatch.kernels.twin import Maker


def unavailable(device: str) -> str | None:
    """Say why these kernels cannot run on a device ("cpu", "cuda"), or None where they can."""
    if device != "cpu":
        return f"the native kernels run on the CPU, and the model is on {device}"
    found = library()
    return found if isinstance(found, str) else None


def gains_from_bf16() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32."""
    found = library()
    return not isinstance(found, str) and found.instructions in ("avx512_bf16", "amx")


def makers() -> Sequence[Maker]:
    """Return one maker per kind of module."""
    return (convmixer_blocks.make, stem.make)
