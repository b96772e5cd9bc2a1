"""torchvision's models by name: the same logits as torchvision's own, their weights, features, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from isopatch.errors import UsageError
from isopatch.models.describe import describe
from isopatch.models.external.wrapper import External
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.models.spec import (
    ModelSpec,
    build,
    check_arguments,
    make_spec,
    no_weight_decay,
    resolve,
)

# A small member of every family that is asked for by name, and of the other kinds of heads.
FAMILIES = [
    "resnet18",
    "regnet_y_400mf",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "densenet121",
]
BASELINES = [
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"regnet_y_{size}gf" for size in ("3_2", "8", "16")),
    *(f"efficientnet_b{size}" for size in range(8)),
    *(f"swin_{size}" for size in "tsb"),
]


def theirs(name: str, **arguments: Any) -> nn.Module:
    model: nn.Module = models.get_model(name, weights=None, num_classes=7, **arguments).eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.1, 0.15)
    for key, buffer in model.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return model


def ours(name: str, **arguments: Any) -> External:
    model = build(make_spec(f"torchvision:{name}", {"image_size": 64, "num_classes": 7, **arguments})).eval()
    assert isinstance(model, External)
    return model


def same_logits(name: str, folder: Path, **arguments: Any) -> External:
    model = theirs(name, **arguments)
    torch.save(model.state_dict(), folder / "model.pth")
    loaded = load(folder / "model.pth", name=f"torchvision:{name}", image_size=64)
    assert isinstance(loaded, External)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected, found = model.double()(x), loaded.double()(x)
    assert expected.shape == (2, 7) and expected.std() > 0
    assert (expected - found).abs().max() <= 1e-10 * expected.abs().max()
    return loaded


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvisions_file_gives_torchvisions_logits(name: str, tmp_path: Path) -> None:
    model = same_logits(name, tmp_path)
    assert {key.split(".")[0] for key in model.state_dict()} == {"peer", "heads"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["swin_t", "swin_v2_t", "convnext_tiny", "resnet50", "vgg11_bn", "mnasnet0_5"]
)
def test_larger_files_too(name: str, tmp_path: Path) -> None:
    same_logits(name, tmp_path)


@pytest.mark.slow
def test_a_vision_transformers_file(tmp_path: Path) -> None:
    same_logits("vit_b_32", tmp_path, image_size=64)


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_has_torchvisions_parameters(name: str) -> None:
    weights = models.get_model_weights(name).DEFAULT
    spec = make_spec(f"torchvision:{name}", {})
    with torch.device("meta"):
        model = build(spec)
    assert sum(p.numel() for p in model.parameters()) == weights.meta["num_params"]
    assert resolve(spec.name).accuracy[0].top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]


def test_every_published_input_contract_is_kept_to_the_pixel() -> None:
    """The size before the crop is recovered from a share: it must come out as the whole number it was."""
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            presets = weights.transforms()
            contract = resolve(f"torchvision:{name}.{weights.name}").input
            assert [contract.height] == presets.crop_size
            assert [int(contract.height / contract.crop_fraction)] == presets.resize_size, weights


def test_the_input_contract_is_that_of_the_named_weights() -> None:
    default, first = (resolve(f"torchvision:resnet50{tag}") for tag in ("", ".IMAGENET1K_V1"))
    assert (default.input.crop_fraction, first.input.crop_fraction) == (224 / 232, 224 / 256)
    assert first.input.interpolation == "bilinear" and first.accuracy[0].top1 == 76.13
    large = make_spec("torchvision:regnet_y_16gf.IMAGENET1K_SWAG_E2E_V1", {})
    assert (large.input.height, large.input.interpolation) == (384, "bicubic")


def test_our_own_folder_loads_alone(tmp_path: Path) -> None:
    model = ours("resnet18", image_size=(32, 64))
    save_model(tmp_path, model)
    loaded = load(tmp_path)
    x = torch.randn(2, 3, 32, 64)
    assert torch.equal(loaded(x), model(x)) and loaded.spec == model.spec
    assert ModelSpec.from_json(json.loads(json.dumps(model.spec.to_json()))) == model.spec


def test_features_are_what_the_pooling_reads() -> None:
    x = torch.randn(2, 3, 96, 64)
    for name in ("resnet18", "regnet_y_400mf", "efficientnet_b0", "swin_t", "densenet121", "mnasnet0_5"):
        model = ours(name)
        with torch.no_grad():
            features, pooled = model.features(x), model.pooled(x)[:, 0]
        assert features.grid == (3, 2) and features.map.shape[2:] == (3, 2)
        assert torch.allclose(features.map.mean(dim=(2, 3)), pooled, atol=1e-5), name
        assert torch.equal(features.tokens.transpose(1, 2).unflatten(2, (3, 2)), features.map)


def test_a_vision_transformers_tokens() -> None:
    model = ours("vit_b_32")
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        features = model.features(x)
        assert features.grid == (2, 2) and features.tokens.shape == (1, 5, 768)
        assert torch.equal(features.tokens[:, 0], model.pooled(x)[:, 0])
        assert len(list(model.features_by_depth(x))) == 13
    with pytest.raises(UsageError, match="vit_b_32 was built for 64x64 pictures, not 96x96"):
        model(torch.randn(1, 3, 96, 96))
    assert no_weight_decay(model) == {"peer.class_token", "peer.encoder.pos_embedding"}


def test_features_by_depth_are_the_stages() -> None:
    x = torch.randn(1, 3, 64, 64)
    model = ours("resnet18")
    sizes = [tuple(f.map.shape[1:]) for f in model.features_by_depth(x)]
    assert sizes == [(64, 16, 16), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert torch.equal(model.features(x, depth=4).map, model.features(x).map)
    swin = [tuple(f.map.shape[1:]) for f in ours("swin_t").features_by_depth(x)]
    assert swin[0] == (96, 16, 16) and swin[-1] == (768, 2, 2)


def test_an_activation_in_place_does_not_change_what_was_given() -> None:
    """DenseNet's first ReLU works in place on what its first norm gave out, which has negative values."""
    with torch.no_grad():
        assert float(ours("densenet121").features(torch.randn(1, 3, 64, 64), depth=1).map.min()) < 0


def test_checking_and_describing_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    check_arguments("torchvision:regnet_y_400mf", {})
    describe("torchvision:vit_b_32", image_size=64)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:", "torchvision: names no model"),
        ("torchvision:resnet19", r"torchvision has no 'resnet19' \(did you mean 'resnet18'\?\)"),
        ("torchvision:fcn_resnet50", "torchvision has no 'fcn_resnet50'"),
        ("torchvision:resnet50.V1", "torchvision has resnet50 with IMAGENET1K_V1, IMAGENET1K_V2"),
    ],
)
def test_names_that_are_none(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(name)


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("resnet18", {"kernel_size": 3}, "model.kernel_size: unknown"),
        ("resnet18", {"in_channels": 1}, "in_channels 1: torchvision's models take 3"),
        ("resnet18", {"dropout": 0.1}, "model.dropout: 0.1, but torchvision:resnet18 takes none"),
        ("swin_t", {"drop_path": 0.1}, "model.drop_path: 0.1, but torchvision:swin_t takes none"),
        ("vit_b_32", {"image_size": 225}, r"cannot be built for 225x225 pictures \(Input shape indivisible"),
        ("vit_b_32", {"image_size": [64, 32]}, "image_size 64x32: torchvision:vit_b_32 takes square"),
        ("squeezenet1_1", {}, "logits are not the output of one linear layer"),
    ],
)
def test_arguments_that_cannot_be(name: str, arguments: dict[str, Any], problem: str) -> None:
    (found,) = check_arguments(f"torchvision:{name}", arguments)
    assert re.search(problem, found), found


def test_rates_reach_the_peer() -> None:
    model = ours("efficientnet_b0", drop_path=0.0, dropout=0.4)
    assert {m.p for m in model.modules() if type(m).__name__ == "StochasticDepth"} == {0.0}
    assert model.peer.classifier[0].p == 0.4


@pytest.mark.parametrize(
    ("name", "pattern", "older"),
    [
        ("densenet121", r"(denselayer\d+)\.(norm|conv)([12])\.", r"\1.\2.\3."),
        ("vit_b_32", r"\.mlp\.(0|3)\.", lambda found: f".mlp.linear_{int(found[1]) // 3 + 1}."),
    ],
)
def test_the_older_names_of_published_files(tmp_path: Path, name: str, pattern: str, older: Any) -> None:
    """torchvision renames them while it loads its own files."""
    state = theirs(name).state_dict()
    renamed = {re.sub(pattern, older, key): tensor for key, tensor in state.items()}
    assert renamed.keys() != state.keys()
    torch.save(renamed, tmp_path / "published.pth")
    torch.save(state, tmp_path / "now.pth")
    first, second = (load(tmp_path / f"{file}.pth", f"torchvision:{name}") for file in ("published", "now"))
    assert first.state_dict().keys() == second.state_dict().keys()
    assert all(torch.equal(t, second.state_dict()[key]) for key, t in first.state_dict().items())
