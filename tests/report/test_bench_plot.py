"""The bench as a picture: drawn with and without published accuracy, refused before anything is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from isopatch.errors import IsopatchError, UsageError
from isopatch.report.bench_plot import write_bench_plot
from isopatch.report.png import plot_file


def model(name: str, macs: float, top1: float | None, rates: dict[str, float]) -> dict[str, Any]:
    return {
        "model": name,
        "macs": macs,
        "accuracy": [] if top1 is None else [{"top1": top1, "source": "a paper"}],
        "matrix_gflops": [{"precision": "bf16", "threads": 2, "gflops": 400.0}],
        "contenders": [
            {"contender": contender, "best": True, "images_per_second": rate}
            for contender, rate in rates.items()
        ],
    }


def document(*models: dict[str, Any], mode: str = "infer") -> dict[str, Any]:
    machine = {"cpu": "a CPU", "gpu": None, "versions": {"torch": "2.13.0"}}
    return {
        "mode": mode, "batch": 8, "threads": [1, 2], "rounds": 5, "machine": machine, "models": list(models),
    }  # fmt: skip


MIXER = model("convmixer_768_32", 20.7e9, 80.16, {"isopatch-native": 20, "timm": 4, "openvino-latency": 7})


@pytest.mark.parametrize(
    "shown",
    [
        document(
            MIXER, model("deit_small_patch16_224", 4.6e9, 79.8, {"isopatch-plain": 30, "timm-compile": 29})
        ),
        document(model("convmixer", 1e9, None, {"isopatch-plain": 3, "onnxruntime": 2})),
        document(MIXER, mode="train"),
        document({**MIXER, "contenders": []}, MIXER),
    ],
    ids=["two models", "no accuracy", "training", "one that could not be measured"],
)
def test_it_is_drawn(shown: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "bench.png"
    write_bench_plot(shown, file)
    assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 10_000


def test_the_name_is_checked_first(tmp_path: Path) -> None:
    assert plot_file(str(tmp_path / "a.PNG")) == tmp_path / "a.PNG"
    with pytest.raises(UsageError, match=r"ends in \.png"):
        plot_file(str(tmp_path / "a.svg"))
    with pytest.raises(UsageError, match="there is no folder"):
        plot_file(str(tmp_path / "absent" / "a.png"))


def test_nothing_measured_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(IsopatchError, match="nothing to draw"):
        write_bench_plot(document({**MIXER, "contenders": []}), tmp_path / "bench.png")
