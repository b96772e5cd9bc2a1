"""Models small enough that nothing here takes longer than it must."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks/ is no installed package

CONVMIXER = {"dim": 8, "depth": 2, "kernel_size": 3, "patch_size": 4, "image_size": 16, "num_classes": 5}
DEIT = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8, "image_size": 16, "num_classes": 5}


@pytest.fixture
def subject():
    """A tiny ConvMixer."""
    from isopatch.bench.subject import open_subject

    return open_subject("convmixer", arguments=CONVMIXER)


@pytest.fixture
def deit_subject():
    """A tiny DeiT."""
    from isopatch.bench.subject import open_subject

    return open_subject("deit", arguments=DEIT)


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    """One call is a turn: nothing here looks at how fast anything is."""
    from isopatch.bench import run, turns

    monkeypatch.setattr(run, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(run, "LATENCY_SECONDS", 0.0)
    monkeypatch.setattr("isopatch.bench.matrix.SIDE", {"cpu": 64})
    return turns
