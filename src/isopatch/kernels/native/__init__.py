"""Twins for x86-64 CPUs, written in C++ (`native/`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from isopatch.kernels.native import convmixer_blocks, depthwise, mlp_blocks, stem, transformer_blocks
from isopatch.kernels.native.library import INSTRUCTIONS, library, loaded
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


def instructions() -> str:
    """Return the instruction set in use, such as "avx512_bf16"; only where the kernels run here."""
    return loaded().instructions


def use_instructions(wanted: str) -> str:
    """Use an instruction set where this CPU has it, else the best one below it; return which."""
    lib = loaded()
    return lib.choose(wanted if wanted in INSTRUCTIONS else lib.supported)


@contextlib.contextmanager
def kept_instructions() -> Iterator[None]:
    """Afterwards the instruction set is what it was before."""
    found = library()
    before = None if isinstance(found, str) else found.instructions
    try:
        yield
    finally:
        if before is not None:
            use_instructions(before)


def makers() -> Sequence[Maker]:
    """Return one maker per kind of module."""
    return (convmixer_blocks.make, stem.make, transformer_blocks.make, mlp_blocks.make, depthwise.make)
