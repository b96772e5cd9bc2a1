"""Twins for x86-64 CPUs, written in C++ (`native/`)."""

from __future__ import annotations

from collections.abc import Sequence

from isopatch.kernels.twin import Maker


def unavailable(device: str) -> str | None:
    """Say why these kernels cannot run on a device ("cpu", "cuda"), or None where they can."""
    return "this version has no native kernels"


def gains_from_bf16() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32."""
    return False


def makers() -> Sequence[Maker]:
    """Return one maker per kind of module."""
    return ()
