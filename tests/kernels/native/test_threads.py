"""The kernels share PyTorch's threads, and do without where these are not there: in a forked process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from isopatch.kernels.native.library import NativeLibrary

SCRIPT = """
import os, sys
import torch
from isopatch.kernels.native.library import loaded

torch.set_num_threads(2)
lib, parts = loaded(), torch.ones(3, 20_000)

def total():
    out = torch.empty(20_000)
    lib.call("add_up", parts=3, size=20_000, in_=parts, out=out)
    return bool((out == 3).all())

def threads():
    return len(os.listdir("/proc/self/task"))

torch.ones(2**20).add_(1)  # PyTorch starts its own
before = threads()
assert total()
shared = threads() == before
child = os.fork()
if not child:
    os._exit(0 if total() else 1)
print(shared, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_threads_are_pytorchs_and_a_forked_process_starts_its_own(native: NativeLibrary) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["True", "0"]
