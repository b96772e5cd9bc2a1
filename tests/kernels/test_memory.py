"""Freed memory stays: the next allocation of the same size faults no page in again."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Above 2 GiB in all, at which glibc gives the top of its heap back unless it is told never to.
SCRIPT = """
import resource, sys
import torch
from isopatch.kernels.memory import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory() and keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def fill():
    blocks = [torch.ones(2**24) for _ in range(34)]
    del blocks

fill()
before = faults()
fill()
print(int(kept), faults() - before)
"""


def measured(how: str) -> tuple[bool, int]:
    """Whether freed memory was kept, and how many pages were faulted in."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "1", int(faults)


def test_freed_memory_is_used_again() -> None:
    kept, faults = measured("keep")
    if not kept:
        pytest.skip("the C library is not glibc, or refuses the setting")
    _, without = measured("leave")
    assert faults < without / 20, (faults, without)


RELEASE = """
import os, resource
from pathlib import Path
import torch
from isopatch.kernels.memory import keep_freed_memory, release_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

print(int(keep_freed_memory()))
blocks = [torch.ones(2**24) for _ in range(8)]  # 512 MiB
wanted = blocks[3]
del blocks
print(resident())
print(int(release_freed_memory(above=1.0)), resident())
a_quarter_gib = 2**28 / resource.getpagesize() / os.sysconf("SC_PHYS_PAGES")
print(int(release_freed_memory(above=a_quarter_gib)), resident())
assert float(wanted.double().mean()) == 1
"""


def test_freed_memory_is_given_back_where_it_is_much() -> None:
    done = subprocess.run([sys.executable, "-c", RELEASE], capture_output=True, text=True, check=True)
    kept, held, few, much = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    if not kept[0]:
        pytest.skip("the C library is not glibc, or refuses the setting")
    assert few[0] == 0 and few[1] >= held[0] - 2**24, "a process that holds little is left alone"
    assert much[0] == 1 and much[1] < held[0] - 6 * 2**26, (held, much)
