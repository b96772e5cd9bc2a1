"""Freed memory that stays with the process."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # mallopt's numbers (malloc.h)
_LARGEST_BLOCK, _NEVER = 2**30, -1
_STATM = Path("/proc/self/statm")


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep large freed blocks for the next allocation; return whether it does.

    By default they go back to the system, and every step of a training faults the same pages in again, which
    costs as much as the arithmetic where that is fast. The process keeps its largest extent until it ends or
    `release_freed_memory` is called. False where the C library is not glibc.
    """
    libc = _glibc()
    if libc is None:
        return False
    return bool(libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(libc.mallopt(_TRIM_THRESHOLD, _NEVER))


def release_freed_memory(*, above: float) -> bool:
    """Give freed memory back where the process holds more than this share of the machine's; True if it did.

    For a change of work: blocks of new sizes do not fit into the gaps between those of the work before, so
    what a process keeps grows with each. The next allocations fault their pages in again.
    """
    libc = _glibc()
    if libc is None or int(_STATM.read_text().split()[1]) <= above * os.sysconf("SC_PHYS_PAGES"):
        return False
    libc.malloc_trim(0)
    return True


@functools.cache
def _glibc() -> Any:
    """The C library where it is glibc, else None."""
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        _ = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):
        return None
    return libc
