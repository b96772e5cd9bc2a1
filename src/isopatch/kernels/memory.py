"""Freed memory that stays with the process."""

from __future__ import annotations

import ctypes
import functools
import logging
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # mallopt's numbers (malloc.h)
_LARGEST_BLOCK, _NEVER = 2**30, -1

log = logging.getLogger("isopatch")


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep large freed blocks for the next allocation; return whether it does.

    By default they go back to the system, and every step of a training faults the same pages in again, which
    costs as much as the arithmetic where that is fast. The process keeps its largest extent until it ends,
    which is logged when it is asked for first. False where the C library is not glibc.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    kept = bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
    if kept:
        log.info("memory: what is freed stays with this process, whose next steps then fault no pages in")
    return kept
