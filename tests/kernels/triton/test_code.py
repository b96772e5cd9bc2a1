"""The compiler's view of the kernels, without a GPU: what the interpreter runs must compile too."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks import speed_gpu
from benchmarks.common import Child

ROOT = Path(__file__).parents[3]

pytest.importorskip("triton")


@pytest.mark.slow
def test_kernels_compile_without_spilling(tmp_path: Path) -> None:
    """In a process of its own: this one's Triton interprets."""
    result = tmp_path / "code.json"
    done = Child(
        [sys.executable, "-m", "benchmarks.triton_code", "--quick", "--out", str(result)], cwd=ROOT
    ).wait(300)
    assert done.code == 0, done.stderr
    rows = json.loads(result.read_text())["rows"]
    assert len(rows) == 16
    assert all(row["bytes_spilled"] == 0 and row["wide_accesses"] > 0 for row in rows)
    assert any(row["tensor_core_products"] for row in rows)


@pytest.mark.slow
def test_the_speed_benchmark_runs_in_the_interpreter(tmp_path, monkeypatch, capsys) -> None:
    result = tmp_path / "speed.json"
    monkeypatch.setattr(sys, "argv", ["speed_gpu", "--dry", "--n", "1", "--out", str(result)])
    assert speed_gpu.main() == 0
    rows = json.loads(result.read_text())["rows"]
    assert [row["what"] for row in rows] == ["inference", "training"]
    for row in rows:
        assert row["failed"] == {}
        assert len(row["images_per_second"]) == 2 + 2 * 2 * 2


def test_the_speed_benchmark_says_that_nothing_was_measured(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["speed_gpu"])
    monkeypatch.setattr(speed_gpu.torch.cuda, "is_available", lambda: False)
    assert speed_gpu.main() == 0
    assert capsys.readouterr().out == "speed_gpu: not measured: no CUDA GPU\n"


def test_a_wrong_kernel_is_not_timed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(speed_gpu, "MOST_DIFFERENCE", 1e-9)  # what bf16 rounds counts as wrong
    monkeypatch.setattr(
        sys, "argv", ["speed_gpu", "--dry", "--no-compile", "--out", str(tmp_path / "speed.json")]
    )
    with pytest.raises(SystemExit, match="twin and plain model differ"):
        speed_gpu.main()


def test_what_does_not_fit_is_tried_with_half_the_batch(monkeypatch) -> None:
    tried = []

    def case(case, n, device, *, compiles):
        tried.append(case.batch)
        if case.batch > 16:
            raise speed_gpu.torch.cuda.OutOfMemoryError("CUDA out of memory")
        return {"batch": case.batch}

    monkeypatch.setattr(speed_gpu, "_case", case)
    found = speed_gpu._fitting(speed_gpu.CASES[1], 1, speed_gpu.torch.device("cpu"), compiles=False)
    assert found == {"batch": 16} and tried == [64, 32, 16]
