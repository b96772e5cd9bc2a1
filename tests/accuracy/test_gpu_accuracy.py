"""The script that trains the paper's CIFAR-10 model on a GPU, end to end on digits on a CPU."""

from __future__ import annotations

import json

import pytest
from benchmarks.accuracy import cifar10_gpu


def test_seeds_and_the_timed_run(script, tmp_path) -> None:
    small = "--device cpu --kernels auto --precision fp32 --model.image_size 8 --model.dim 16 --model.depth 1"
    code, result = script("cifar10_gpu", "--n", "2", "--changes", f"{small} --epochs 1")
    assert [run["seed"] for run in result["runs"]] == [0, 1]
    mean = sum(run["top1"] for run in result["runs"]) / 2
    assert result["figure"]["top1"]["mean"] == pytest.approx(mean)
    assert (code == 0) == result["passed"] == (mean >= 0.957)
    curve = tmp_path / "runs" / "timed-seed0" / "metrics.jsonl"
    reached = max(
        point["top1"] for point in map(json.loads, curve.read_text().splitlines()) if "top1" in point
    )
    assert (result["figure"]["seconds_to_94"] is not None) == (reached >= 0.94)
    seconds = cifar10_gpu.seconds_to(reached, curve)
    assert seconds is not None and seconds > 0
    assert cifar10_gpu.seconds_to(1.01, curve) is None
