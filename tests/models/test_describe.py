from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from isopatch.errors import UsageError
from isopatch.models.describe import describe
from isopatch.models.memory import backward_bytes, forward_bytes
from isopatch.models.published import parity_of
from isopatch.models.render import render_list, render_show
from isopatch.models.table import MODELS

SMALL = {"dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "num_classes": 5}
POOLED = {"dim": 8, "depth": 1, "patch_size": 4, "image_size": 8}


def test_keys_and_values() -> None:
    facts = describe("deit_tiny_distilled")
    json.dumps(facts, allow_nan=False)
    assert facts["name"] == "deit_tiny_distilled_patch16_224"
    assert facts["parameters"] == 5_910_800
    assert facts["macs"] == 1_261_003_776
    assert facts["flops"] == 2 * facts["macs"]
    assert facts["tokens"] == 198
    assert facts["grid"] == [14, 14]
    assert facts["weight_bytes"] == 4 * facts["parameters"]
    assert facts["forward_memory_bytes"] > 0
    assert facts["backward_memory_bytes"] > facts["forward_memory_bytes"]
    assert facts["accuracy"][0]["top1"] == 74.476


def test_image_size_and_arguments() -> None:
    small = describe("vit", image_size=32, arguments=SMALL)
    wide = describe("vit", image_size=(32, 64), arguments=SMALL)
    assert small["tokens"] == 17
    assert wide["tokens"] == 33
    assert wide["grid"] == [4, 8]
    assert wide["macs"] > small["macs"]
    assert describe("vit", arguments={**SMALL, "image_size": 32}) == small


def test_attention_and_depthwise_products_are_counted() -> None:
    dim, tokens, patch = 32, 17, 8
    per_block = tokens * (4 * dim * dim + 8 * dim * dim) + 2 * tokens * tokens * dim
    expected = 16 * dim * 3 * patch**2 + 2 * per_block + dim * 5
    assert describe("vit", image_size=32, arguments=SMALL)["macs"] == expected
    conv = describe(
        "convmixer",
        image_size=32,
        arguments={"dim": 8, "depth": 3, "kernel_size": 4, "patch_size": 4, "num_classes": 5},
    )
    assert conv["macs"] == 64 * (8 * 3 * 16 + 3 * 8 * (16 + 8)) + 8 * 5


def test_checkpoints_and_parity() -> None:
    facts = describe("vit_base")
    ids = [checkpoint["id"] for checkpoint in facts["checkpoints"]]
    assert "timm/vit_base_patch16_224.augreg_in21k_ft_in1k" in ids
    assert "hf-hub:google/vit-base-patch16-224" in ids
    text = render_show(facts)
    assert "timm/vit_base_patch16_224.augreg_in21k (21,843 classes)" in text
    assert "timm/vit_base_patch16_224.mae (no classifier, cc-by-nc-4.0)" in text
    assert "float64" in facts["parity"]
    assert describe("metaformer", arguments=POOLED)["checkpoints"] == []


def test_every_name_says_what_it_was_compared_with() -> None:
    assert all(parity_of(name) for name in MODELS)


def test_published_weights_are_those_timm_lists() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "tools/make_published.py", "--check"], cwd=root, check=False)
    assert done.returncode == 0, "run tools/make_published.py"


def test_problems_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="unknown model"):
        describe("vitt")
    with pytest.raises(UsageError, match="not divisible by patch_size"):
        describe("deit_tiny", image_size=225)


def test_forward_memory_is_the_peak_and_not_the_sum() -> None:
    with torch.device("meta"):
        x = torch.empty(1, 1000)
        stack = nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(5)))
    # The input of each layer is freed after it: two results of 4,000 bytes are alive at a time.
    assert forward_bytes(stack, x) == 8000
    # Training keeps every layer's input; the first is the picture, counted because it is kept.
    assert backward_bytes(stack, x) == 4 * 5 * 1000


def test_memory_grows_with_the_batch_and_the_picture() -> None:
    small = describe("vit", image_size=32, arguments=SMALL)
    large = describe("vit", image_size=64, arguments=SMALL)
    assert large["forward_memory_bytes"] > 3 * small["forward_memory_bytes"]
    assert large["weight_bytes"] > small["weight_bytes"]  # the position table


def test_describe_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    describe("vit", image_size=32, arguments=SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_texts() -> None:
    listing = render_list()
    for word in ("deit_small_distilled_patch16_224", "22,436,432", "4.624", "81.16", "deit_small_distilled"):
        assert word in listing
    assert all(len(line) < 130 for line in listing.splitlines())
    shown = render_show(describe("vit", image_size=32, arguments=SMALL))
    for word in ("MACs", "tokens", "17 (4 x 4 patches + 1 prefix)", "meta device", "FLOPs"):
        assert word in shown
