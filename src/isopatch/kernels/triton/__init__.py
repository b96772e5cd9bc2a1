"""Twins for GPUs, written in Triton."""

from __future__ import annotations

from collections.abc import Sequence

from isopatch.kernels.twin import Maker


def unavailable(device: str) -> str | None:
    """Say why these kernels cannot run on a device ("cuda", "cpu"), or None where they can."""
    return "this version has no Triton kernels"


def gains_from_bf16() -> bool:
    """Whether bf16 is faster here: every GPU these kernels run on has it."""
    return True


def makers() -> Sequence[Maker]:
    """Return one maker per kind of module."""
    return ()
