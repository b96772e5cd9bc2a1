"""The scripts that train through the native kernels, end to end on digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isopatch.kernels.native.library import library

ROOT = Path(__file__).parents[2]


def script(name: str, folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    where = ["--folder", str(folder / "runs"), "--out", str(folder / "result.json"), "--data", "digits"]
    command = [sys.executable, "-m", f"benchmarks.accuracy.{name}", *where, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (folder / "result.json").is_file(), done.stdout + done.stderr
    return done.returncode, json.loads((folder / "result.json").read_text())


@pytest.fixture
def _native() -> None:
    found = library()
    if isinstance(found, str):
        pytest.skip(found)


@pytest.mark.usefixtures("_native")
def test_pairs_differ_in_the_kernels_alone(tmp_path: Path) -> None:
    small = "--model.image_size 8 --model.dim 16 --model.depth 1 --epochs 1"
    code, result = script("native_against_plain", tmp_path, "--n", "1", "--changes", small)
    native, plain = result["runs"]["native"], result["runs"]["plain"]
    assert [run["kernels"] for run in native + plain] == ["native", "plain"]
    for one, other in zip(native, plain, strict=True):
        assert one["command"].replace("native", "plain") == other["command"]
    mean = native[0]["top1"] - plain[0]["top1"]
    assert result["figure"]["difference"]["mean"] == pytest.approx(mean)
    assert (code == 0) == result["passed"] == (abs(mean) < 0.005)


def test_width_reads_the_curve_and_goes_on(tmp_path: Path) -> None:
    arguments = ("--image-size", "8", "--widths", "8", "--depth", "1", "--epochs", "2")
    code, result = script("width_cost", tmp_path, *arguments)
    assert code == 0
    row = result["figure"]["8"]
    assert [epoch for epoch, _ in row["validation"]] == [1, 2]
    reached = [epoch for epoch, top1 in row["validation"] if top1 >= 0.8]
    assert row["epochs_to_80"] == (reached[0] if reached else None)
    assert row["peak_memory_mb"] > 0
    _, again = script("width_cost", tmp_path, *arguments)
    assert again["figure"]["8"]["training_seconds"] == row["training_seconds"]  # read, not run
