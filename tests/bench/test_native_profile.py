"""The profile counts operations right, and says so where a step seems faster than its arithmetic."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from isopatch.kernels.native.library import library

ROW = {"convmixer": {"kernel_size": 3}, "vit": {"num_heads": 2}}


@pytest.fixture
def profile() -> Any:
    found = library()
    if isinstance(found, str):
        pytest.skip(found)
    return importlib.import_module("benchmarks.native_profile")


@pytest.mark.parametrize("architecture", ROW)
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_products_are_counted_as_the_model_counts_them(profile: Any, architecture: str, mode: str) -> None:
    sizes = {"dim": 64, "depth": 2, "patch_size": 4, "num_classes": 10, **ROW[architecture]}
    row = profile.Row("tiny", architecture, mode, 4, None, None, image_size=32, arguments=sizes)
    watched = profile.watch(row, 1)
    maps = {(3, 8, 8)} if architecture == "convmixer" else set()
    assert watched.ledgers[0].sums.keys() == maps
    best, usual = (profile.Rates(rate, rate / 2, dict.fromkeys(maps, rate)) for rate in (3e12, 1e12))
    found = profile.described(watched, best, usual)
    assert found["images_per_second_at_bound"] > 0
    assert found["share_of_bound"] < found["share_at_usual_rates"]
    tokens, dim = 4 * (64 if architecture == "convmixer" else 65), 64
    stem = 2 * 4 * 64 * 64 * dim  # 48 values of a patch, padded to 64
    linear = 2 * tokens * dim * dim * 2
    if architecture == "vit":
        linear = linear * 12 + 2 * 2 * 2 * tokens * 65 * dim
    forward = linear + (stem if architecture == "convmixer" or mode == "infer" else 0)
    if mode == "infer":
        assert found["product_operations"] == forward
    elif architecture == "convmixer":  # the stem's input has no gradient
        assert found["product_operations"] == forward + 2 * linear + stem
    else:  # attention goes back with five products where it came with two
        attention = 2 * 2 * 2 * tokens * 65 * dim
        assert found["product_operations"] == forward + 2 * (linear - attention) + 2.5 * attention
    depthwise = 2 * tokens * dim * 9 * 2 if architecture == "convmixer" else 0
    # ConvMixer in inference: once per step. In training: stem, blocks, end; back: end, blocks, stem.
    activations = {
        ("vit", "infer"): 2 * tokens * 4 * dim,
        ("vit", "train"): 3 * 2 * tokens * 4 * dim,
        ("convmixer", "infer"): tokens * dim * (1 + 2 * 2),
        ("convmixer", "train"): tokens * dim * ((2 + 3 + 4 + 1) + (1 + 6 + 5 + 3)),
    }
    assert found["activations"] == activations[architecture, mode]
    assert found["depthwise_operations"] == depthwise * (3 if mode == "train" else 1)


@pytest.mark.parametrize("instructions", ["amx", "amx_emulated"])
def test_blocks_in_one_pass_are_counted(profile: Any, instructions: str) -> None:
    native = library()
    before = native.instructions
    if native.choose(instructions) != instructions:
        pytest.skip(f"this CPU has {native.supported}")
    try:
        sizes = {"dim": 64, "depth": 2, "patch_size": 1, "num_classes": 10, "kernel_size": 5}
        row = profile.Row("tiny", "convmixer", "infer", 2, None, None, image_size=18, arguments=sizes)
        ledger = profile.watch(row, 1).ledgers[0]
    finally:
        native.choose(before)
    places, dim = 2 * 18 * 18, 64
    assert ledger.products == {
        "stem_forward": 2 * places * 32 * dim,
        "convmixer_infer": 2 * 2 * places * dim**2,
    }
    assert ledger.tiled == 2 * 2 * places * dim * 5 * 32  # 32 columns for each kernel row
    assert ledger.activations == places * dim * (1 + 2 * 2) and not ledger.sums


@pytest.mark.parametrize("rate", [1e3, 1e16], ids=["step-below-its-bound", "slow-1x1-step"])
def test_it_fails_where_it_must(
    profile: Any, rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = importlib.import_module("benchmarks.native_rates")
    sizes = {"dim": 32, "depth": 1, "patch_size": 4, "num_classes": 10, "kernel_size": 3}
    row = profile.Row("tiny", "convmixer", "train", 2, None, None, image_size=16, arguments=sizes)
    monkeypatch.setattr(profile, "TRAINING", (row,))
    monkeypatch.setattr(rates, "product_rates", lambda dtype: [rate, rate])
    out = tmp_path / "profile.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks/native_profile.py", "tiny", "--n", "1", "--out", str(out)])
    assert profile.main() == 1
    assert not json.loads(out.read_text())["passed"]
