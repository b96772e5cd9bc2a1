"""The scripts that train through the native kernels, end to end on digits."""

from __future__ import annotations

import pytest
from benchmarks.accuracy import width_cost


@pytest.mark.usefixtures("needs_native")
def test_pairs_differ_in_the_kernels_alone(script) -> None:
    small = "--model.image_size 8 --model.dim 16 --model.depth 1 --epochs 1"
    code, result = script("native_against_plain", "--n", "1", "--changes", small)
    native, plain = result["runs"]["native"], result["runs"]["plain"]
    assert [run["kernels"] for run in native + plain] == ["native", "plain"]
    for one, other in zip(native, plain, strict=True):
        assert one["command"].replace("native", "plain") == other["command"]
    mean = native[0]["top1"] - plain[0]["top1"]
    assert result["figure"]["difference"]["mean"] == pytest.approx(mean)
    assert (code == 0) == result["passed"] == (abs(mean) < 0.005)


@pytest.mark.usefixtures("needs_native")
def test_gradients_are_compared_and_controls_fail(script) -> None:
    small = "--model.image_size 8 --model.dim 16 --model.depth 1 --epochs 1"
    code, result = script("native_gradients", "--n", "2", "--changes", small)
    assert result["figure"]["native fp32"]["error"] < 1e-4
    assert 1e-4 < result["figure"]["native bf16"]["error"] < 0.2
    ours, plain = result["figure"]["native bf16"], result["figure"]["plain bf16"]
    kept = ours["error"] <= 1.25 * plain["error"] and abs(ours["scale"] - 1) <= 0.005
    assert (code == 0) == result["passed"] == kept


def test_width_reads_the_curve_and_goes_on(script, monkeypatch) -> None:
    monkeypatch.setattr(width_cost, "BATCH", 64)
    arguments = ("--image-size", "8", "--widths", "8", "--depth", "1", "--epochs", "2")
    code, result = script("width_cost", *arguments)
    assert code == 0
    row = result["figure"]["8"]
    assert [epoch for epoch, _ in row["validation"]] == [1, 2]
    reached = [epoch for epoch, top1 in row["validation"] if top1 >= 0.8]
    assert row["epochs_to_80"] == (reached[0] if reached else None)
    assert row["peak_memory_mb"] > 0
    monkeypatch.setattr(width_cost, "_memory", lambda model, result: 0.0)  # a process of its own, as before
    _, again = script("width_cost", *arguments)
    assert again["figure"]["8"]["training_seconds"] == row["training_seconds"]  # read, not run
