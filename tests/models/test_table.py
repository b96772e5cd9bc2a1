"""The table of names: every count is counted again, and compared with the reference file."""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from isopatch.errors import UsageError
from isopatch.models.render import list_rows
from isopatch.models.spec import build, make_spec, resolve
from isopatch.models.table import ALIASES, MODELS, aliases_of, list_models

PUBLISHED = [name for name, entry in MODELS.items() if not entry.plain]


@cache
def reference() -> dict[str, Any]:
    data = os.environ.get("ISOPATCH_DATA")
    path = Path(data or "/nowhere").parent / "reference" / "model_stats.json"
    if not path.is_file():
        pytest.skip("reference/model_stats.json is not beside ISOPATCH_DATA")
    stats: dict[str, Any] = json.loads(path.read_text())
    return stats


def count(name: str, **arguments: Any) -> tuple[int, int]:
    """Parameters and multiply-adds, on the meta device."""
    spec = make_spec(name, arguments)
    with torch.device("meta"):
        model = build(spec).eval().requires_grad_(False)
        x = torch.empty(1, 3, spec.input.height, spec.input.width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_of_the_table_are_exact(name: str) -> None:
    entry = resolve(name)
    assert count(name) == (entry.parameters, entry.macs)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("convmixer")])
def test_convmixer_counts_follow_the_papers_formula(name: str) -> None:
    entry = resolve(name)
    a = entry.arguments
    h, d, k, p, classes = (a[key] for key in ("dim", "depth", "kernel_size", "patch_size", "num_classes"))
    assert entry.parameters == h * (d * (k**2 + h + 6) + 3 * p**2 + classes + 3) + classes
    places = (a["image_size"] // p) ** 2
    assert entry.macs == places * (h * 3 * p**2 + d * h * (k**2 + h)) + h * classes


def test_counts_equal_the_reference_file() -> None:
    stats = reference()["models"]
    shared = [name for name in PUBLISHED if name in stats]
    assert len(shared) == 51
    for name in shared:
        known, entry = stats[name], resolve(name)
        assert entry.parameters == known["params"], name
        native = known["timm_native_input_size"][1]
        flops = known["flops_224"] if native == 224 else known["flops_at_other_sizes"][str(native)]
        assert 2 * (entry.macs or 0) == flops, name
        if native != 224:
            assert count(name, image_size=224) == (known["params_at_224"], known["macs_224"]), name


def test_sizes_of_the_official_vit_repository() -> None:
    """google-research/vision_transformer, models_test.py: its 17 models, 1000 classes, 224 x 224."""
    official = {
        "vit_tiny_patch16_224": 5_717_416,
        "vit_small_patch32_224": 22_878_952,
        "vit_small_patch16_224": 22_050_664,
        "vit_base_patch32_224": 88_224_232,
        "vit_base_patch16_224": 86_567_656,
        "vit_base_patch8_224": 86_576_872,
        "vit_large_patch32_224": 306_535_400,
        "vit_large_patch16_224": 304_326_632,
        "vit_huge_patch14_224": 632_045_800,
        "vit_base_patch16_gap_224": 86_566_120,
        "vit_tiny_r_s16_p8_224": 6_337_704,
        "vit_small_r26_s32_224": 36_431_912,
        "vit_base_r50_s16_224": 98_659_112,
        "vit_large_r50_s32_224": 328_994_856,
        "mixer_b16_224": 59_880_472,
        "mixer_b32_224": 60_293_428,
        "mixer_l16_224": 208_196_168,
    }
    assert len(official) == 17
    assert {name: count(name)[0] for name in official} == official


def test_resmlps_that_timm_lacks_equal_the_reference_file() -> None:
    known = reference()["non_timm_224"]
    labels = {"ResMLP-B24/16": "resmlp_big_24_patch16_224", "ResMLP-S12/14": "resmlp_12_patch14_224"}
    labels["ResMLP-S12/8"] = "resmlp_12_patch8_224"
    for label, name in labels.items():
        assert resolve(name).parameters == known[label]["params"], label


def test_other_convmixers_equal_the_reference_file() -> None:
    stats = reference()
    checked = 0
    for group, side in (("non_timm_224", 224), ("cifar_32", 32)):
        for label, known in stats[group].items():
            found = re.fullmatch(r"ConvMixer-(\d+)/(\d+) k(\d+) p(\d+)", label)
            if found is None:
                continue
            dim, depth, kernel, patch = map(int, found.groups())
            counted = count(
                "convmixer",
                dim=dim,
                depth=depth,
                kernel_size=kernel,
                patch_size=patch,
                image_size=side,
                num_classes=known["num_classes"],
            )
            assert counted == (known["params"], known[f"macs_{side}"]), label
            checked += 1
    assert checked == 29


@pytest.mark.parametrize(
    ("label", "arguments"),
    [
        ("ViT-Ti/4 (192x12, 3 heads, mlp 4, cls)", {"dim": 192, "depth": 12, "num_heads": 3}),
        (
            "ViT-Ti/4 gap (192x12, 3 heads, mlp 4)",
            {"dim": 192, "depth": 12, "num_heads": 3, "class_token": False, "pool": "norm-mean"},
        ),
        ("ViT-S/4 (384x12, 6 heads, mlp 4, cls)", {"dim": 384, "depth": 12, "num_heads": 6}),
        (
            "ViT-Lite-7/4 shape (256x7, 4 heads, mlp 2, cls)",
            {"dim": 256, "depth": 7, "num_heads": 4, "mlp_ratio": 2},
        ),
        (
            "ViT-Lite-6/4 shape (256x6, 4 heads, mlp 2, cls)",
            {"dim": 256, "depth": 6, "num_heads": 4, "mlp_ratio": 2},
        ),
        (
            "SPT/LSA base ViT shape (192x9, 12 heads, mlp 2, cls, patch 4)",
            {"dim": 192, "depth": 9, "num_heads": 12, "mlp_ratio": 2},
        ),
        (
            "omihub777 shape (384x7, 12 heads, mlp 1, cls, patch 4)",
            {"dim": 384, "depth": 7, "num_heads": 12, "mlp_ratio": 1},
        ),
    ],
)
def test_small_vits_equal_the_reference_file(label: str, arguments: dict[str, Any]) -> None:
    known = reference()["cifar_32"][label]
    counted = count("vit", patch_size=4, image_size=32, num_classes=10, **arguments)
    assert counted == (known["params"], known["macs_32"])


def test_names_follow_their_sizes() -> None:
    for name in PUBLISHED:
        arguments = resolve(name).arguments
        found = re.fullmatch(r"convmixer_(\d+)_(\d+)_ks(\d+)_p(\d+)", name)
        if found:
            expected = tuple(map(int, found.groups()))
            assert expected == tuple(arguments[k] for k in ("dim", "depth", "kernel_size", "patch_size")), (
                name
            )
        found = re.fullmatch(r"(?:vit|deit3?)_.*patch(\d+)_(?:gap_)?(\d+)", name)
        if found:
            assert tuple(map(int, found.groups())) == (arguments["patch_size"], arguments["image_size"]), name


def test_aliases_lead_to_names_and_are_no_names() -> None:
    assert len(MODELS) == len(list_models()) == 109
    for alias, target in ALIASES.items():
        assert target in MODELS
        assert alias not in MODELS
        assert resolve(alias) is MODELS[target]
        assert alias in aliases_of(target)


def test_the_issued_names_are_there() -> None:
    for name in (
        "vit_base_patch16_224",
        "deit_small_distilled_patch16_224",
        "convmixer_1536_20",
        "convmixer_1024_20_ks9_p14",
        "convmixer_256_8_ks9_p1",
        "convmixer_256_8_ks5_p2",
        "convmixer_128_4_ks8_p1",
        "deit_tiny",
        "deit_small_distilled",
        "vit",
        "convmixer",
    ):
        resolve(name)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown model 'deit_tinny' \\(did you mean 'deit_tiny'\\?\\)"):
        resolve("deit_tinny")
    with pytest.raises(UsageError, match=r"unknown model 'qqq'; 'isopatch models list'"):
        resolve("qqq")


def test_input_contracts() -> None:
    def crop(name: str) -> float:
        return resolve(name).input.crop_fraction

    assert crop("deit_small") == crop("deit_base_384") == 0.875
    assert crop("deit3_small") == crop("vit_base_patch16_384") == 1.0
    assert crop("vit_base") == 0.9
    assert crop("convmixer_768_32") == 0.96
    assert resolve("vit_base").input.mean == (0.5, 0.5, 0.5)
    cifar = resolve("convmixer_cifar").input
    assert (cifar.height, cifar.width, cifar.crop_fraction) == (32, 32, 1.0)
    assert cifar.mean == (0.49140, 0.48216, 0.44653)
    for name in PUBLISHED:
        entry = resolve(name)
        assert entry.input.height == entry.input.width == entry.arguments["image_size"], name


def test_list_rows_are_json() -> None:
    rows = list_rows()
    json.dumps(rows, allow_nan=False)
    assert [row["name"] for row in rows] == list_models()
    row = next(row for row in rows if row["name"] == "deit_tiny_patch16_224")
    assert row["parameters"] == 5_717_416
    assert row["flops"] == 2 * row["macs"]
    assert row["top1"] == 72.202
