"""The harnesses of benchmarks/reliability, in short; the long versions: benchmarks/README.md."""

import contextlib
import io
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks/ is no installed package


@pytest.fixture(autouse=True)
def quiet():
    """What the commands print is not looked at here."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@pytest.fixture
def train():
    """Run `isopatch train` in this process; returns its exit code."""
    from isopatch.cli import main

    def call(arguments, *more):
        with contextlib.redirect_stderr(io.StringIO()):
            return main([*arguments, *more])

    return call
