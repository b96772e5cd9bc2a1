"""`isopatch bench`: its document, its table, its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from isopatch.bench.memory import peak_memory_mb
from isopatch.bench.setting import Setting, Task
from isopatch.cli import main
from isopatch.kernels import native
from isopatch.nn.blocks import Blocks

SIZES = {"dim": 8, "depth": 1, "kernel_size": 3, "patch_size": 4, "image_size": 16, "num_classes": 5}
TINY = ["bench", "convmixer", *(f"--model.{key}={value}" for key, value in SIZES.items()), "--threads", "1"]
SHORT = [*TINY, "--rounds", "2", "--no-memory", "--batch", "2"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *SHORT, "--json", *arguments)
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def test_the_document_of_an_inference(capsys: pytest.CaptureFixture[str]) -> None:
    document = measured(capsys, "--peers", "timm", "--kernels", "plain")
    assert (document["mode"], document["batch"], document["rounds"]) == ("infer", 2, 2)
    (model,) = document["models"]
    assert model["macs"] > 0 and model["image_size"] == [16, 16]
    assert {row["precision"] for row in model["matrix_gflops"]} == {"fp32", "bf16"}
    rows = model["contenders"]
    assert {row["contender"] for row in rows} == {"isopatch-plain", "timm"}
    for row in rows:
        assert row["images_per_second"] > 0 and row["share_of_matrix_rate"] > 0 and row["n"] in (1, 2)
        assert row["spread"]["min"] <= row["images_per_second"] <= row["spread"]["max"]
        assert (row["ratio_to_best_peer"] is not None) == row["ours"]
        assert (row["latency_ms"] is not None) == row["best"]
        assert row["peak_memory_mb"] is None
    best = [row for row in rows if row["best"]]
    assert len(best) == 2 and all(row["latency_ms"]["p50"] <= row["latency_ms"]["p99"] for row in best)
    assert (model["best"], model["best_peer"]) == ("isopatch-plain", "timm")
    assert model["ratio_spread"]["min"] <= model["ratio_to_best_peer"] <= model["ratio_spread"]["max"]


class Twin(Blocks):
    """Stands in for the plain blocks; `off` is what it adds to the right result."""

    twin_name = "fake"
    off = 0.0

    def forward(self, tokens: Tensor, grid: Any, *, recompute: bool = False) -> Tensor:
        return super().forward(tokens, grid, recompute=recompute) + self.off


def twin_of(off: float) -> Any:
    def make(module: nn.Module, precision: str) -> nn.Module | None:
        if type(module) is not Blocks:
            return None
        twin = Twin(module)
        twin.off = off
        return twin

    return lambda: [make]


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_our_kernels_are_measured_where_there_are_any(
    mode: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "unavailable", lambda device: None)
    monkeypatch.setattr(native, "makers", twin_of(0.0))
    (model,) = measured(capsys, "--peers", "none", "--mode", mode)["models"]
    rows = {(row["contender"], row["precision"]): row for row in model["contenders"]}
    assert {("isopatch-native", "fp32"), ("isopatch-native", "bf16"), ("isopatch-plain", "fp32")} <= set(rows)
    assert "blocks (fake)" in rows["isopatch-native", "fp32"]["note"]
    (model,) = measured(capsys, "--peers", "none", "--mode", mode, "--kernels", "native")["models"]
    assert {row["contender"] for row in model["contenders"]} == {"isopatch-native"}
    # One that computes something else is told to be wrong and has no rate.
    monkeypatch.setattr(native, "makers", twin_of(1.0))
    (model,) = measured(capsys, "--peers", "none", "--mode", mode)["models"]
    assert {row["contender"] for row in model["contenders"]} == {"isopatch-plain"}
    assert {(row["contender"], row["state"]) for row in model["absent"]} == {("isopatch-native", "wrong")}


def test_kernels_that_cannot_run_are_told_and_refused_by_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "unavailable", lambda device: "no compiler was found")
    code, out, _ = run(capsys, *SHORT, "--peers", "none")
    assert code == 0 and "isopatch-native: no compiler was found" in out
    code, out, err = run(capsys, *SHORT, "--peers", "none", "--kernels", "native")
    assert (code, out) == (2, "") and "kernels native: no compiler was found" in err


def test_a_model_without_twins_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "unavailable", lambda device: None)
    monkeypatch.setattr(native, "makers", lambda: [])
    for kernels in ("auto", "native"):
        _, out, _ = run(capsys, *SHORT, "--peers", "none", "--kernels", kernels)
        assert "isopatch-native: nothing in this model has a twin" in out


def test_a_training_step(capsys: pytest.CaptureFixture[str]) -> None:
    document = measured(capsys, "--mode", "train", "--peers", "timm,openvino", "--precision", "fp32")
    (model,) = document["models"]
    assert {"isopatch-plain", "timm"} <= {row["contender"] for row in model["contenders"]}
    assert all(row["latency_ms"] is None for row in model["contenders"])
    assert next(row["why"] for row in model["absent"] if row["contender"] == "openvino").startswith(
        ("runs inference", "pip install")
    )


def test_the_table_for_people_and_the_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = tmp_path / "bench.png"
    code, out, err = run(capsys, *SHORT, "--peers", "timm", "--kernels", "plain", "--plot", str(plot))
    assert code == 0
    assert "isopatch-plain*" in out and "timm*" in out and "times the best peer, timm" in out
    assert "matrix rate" in out and f"plot: {plot}" in out
    assert "building timm, bf16" in err  # progress is no result
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_without_peers_there_is_no_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = measured(capsys, "--peers", "none", "--kernels", "plain")["models"]
    assert model["ratio_to_best_peer"] is None and model["best_peer"] is None
    assert {row["contender"] for row in model["contenders"]} == {"isopatch-plain"}


def test_a_peer_that_is_not_installed_is_told_with_the_way_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "isopatch.bench.field.missing_packages", lambda peer: [peer] * (peer == "onnxruntime")
    )
    code, out, _ = run(capsys, *SHORT, "--peers", "timm,onnxruntime")
    assert code == 0 and "onnxruntime: not installed, pip install onnxruntime onnx onnxscript" in out
    # Asked for by name, and nothing else to compare with: the table is printed, the command fails.
    code, out, err = run(capsys, *SHORT, "--peers", "onnxruntime")
    assert code == 1 and "isopatch-plain*" in out and "none of them could be measured" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "openvin"], "no peer 'openvin' (did you mean 'openvino'?)"),
        (["--precision", "fp61"], "--precision 'fp61'"),
        (["--kernels", "nativ"], "--kernels 'nativ' (did you mean 'native'?)"),
        (["--threads", "no"], "--threads no"),
        (["--threads", "4096"], "--threads 4096: this process may use"),
        (["--rounds", "0"], "argument --rounds: 0 is below 1"),
        (["--device", "tpu"], "--device tpu"),
        (["--plot", "x.jpg"], "--plot x.jpg"),
        (["--plot", "absent/x.png"], "there is no folder absent"),
        (["--mode", "fly"], "invalid choice: 'fly'"),
        (["--model.dimm", "3"], "model.dimm: unknown (did you mean 'dim'?)"),
        (["--image-size", "big"], "--image-size big"),
        (["--optimizer.lr", "3"], "--optimizer.lr: unknown option"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = run(capsys, *TINY, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("isopatch: error: ")]
    assert (code, out, len(lines)) == (2, "", 1) and message in lines[0]


def test_a_gpu_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = run(capsys, *TINY, "--device", "cuda")
    assert code == 2 and "torch sees no CUDA GPU" in err


def test_memory_of_a_fresh_process_counts_weights_and_activations() -> None:
    sizes = {**SIZES, "dim": 256, "depth": 2, "patch_size": 2, "image_size": 64}
    how = {"source": "convmixer", "arguments": sizes, "image_size": None, "seed": 0}
    few, many = (
        peak_memory_mb(how, Task("infer", batch), Setting("isopatch-plain", "fp32", 1, "nchw"))
        for batch in (1, 16)
    )
    # One feature map of a picture is 256 * 32 * 32 floats, 1 MB; at least two are alive at a time.
    assert many - few > 15
