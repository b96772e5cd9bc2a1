"""timm's models by name: the same logits as timm's own, their weights, sizes, features and refusals."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.describe import describe
from isopatch.models.external.wrapper import External, classifier_path
from isopatch.models.load import load
from isopatch.models.render import render_show
from isopatch.models.save import save_model
from isopatch.models.spec import (
    ModelSpec,
    build,
    check_arguments,
    make_spec,
    no_weight_decay,
    resolve,
)

timm = pytest.importorskip("timm")

# A small member of every family that is asked for by name, and of every kind of head and layout.
FAMILIES = [
    ("resnet18", {}),
    ("regnety_002", {}),
    ("tf_efficientnet_b0.ns_jft_in1k", {}),
    ("resnetv2_18", {}),  # BiT's frame: the classifier is a 1 x 1 convolution
    ("test_vit", {"img_size": 64}),
    ("test_mambaout", {}),  # a hidden layer in its head, channels last
    ("mobilenetv3_small_050", {}),  # timm's own Linear
]
BASELINES = [
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"regnety_{size}" for size in ("040", "080", "120", "160")),
    *(f"efficientnet_b{size}" for size in range(8)),
    *(f"tf_efficientnet_b{size}.ns_jft_in1k" for size in range(8)),
    "resnetv2_50x1_bit.goog_in21k_ft_in1k",
    "resnetv2_101x1_bit.goog_in21k_ft_in1k",
    "resnetv2_152x2_bit.goog_in21k_ft_in1k",
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "swin_base_patch4_window7_224",
]


def theirs(name: str, **arguments: Any) -> nn.Module:
    """timm's own model with weights and statistics that are not the initial ones."""
    model = timm.create_model(name, num_classes=7, **arguments).eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.1, 0.15)
    for key, buffer in model.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return model


def ours(name: str, **arguments: Any) -> External:
    model = build(make_spec(f"timm:{name}", {"image_size": 64, "num_classes": 7, **arguments})).eval()
    assert isinstance(model, External)
    return model


def same_logits(name: str, arguments: dict[str, Any], folder: Path) -> External:
    """Write timm's model, open the file as ours, compare in float64."""
    model = theirs(name, **arguments)
    save_file(model.state_dict(), folder / "model.safetensors")
    loaded = load(folder / "model.safetensors", name=f"timm:{name}", image_size=64)
    assert isinstance(loaded, External)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected, found = model.double()(x), loaded.double()(x)
    assert expected.shape == (2, 7)
    assert expected.std() > 0
    assert (expected - found).abs().max() <= 1e-10 * expected.abs().max()
    return loaded


@pytest.mark.parametrize(("name", "arguments"), FAMILIES)
def test_timms_file_gives_timms_logits(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    model = same_logits(name, arguments, tmp_path)
    assert {key.split(".")[0] for key in model.state_dict()} == {"peer", "heads"}
    with torch.no_grad():  # the head's weights are the ones in use
        x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        before = model(x)
        model.heads["cls"].linear.bias += 1.0
        assert torch.allclose(model(x), before + 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("swin_tiny_patch4_window7_224", {"img_size": 64}),
        ("resnetv2_50x1_bit.goog_in21k_ft_in1k", {}),
        ("regnety_040", {}),
        ("resnet50", {}),
        ("efficientnet_b0", {}),
        ("convnext_atto", {}),
        ("vgg11", {}),
        ("densenet121", {}),
        ("caformer_s18", {}),
        ("hrnet_w18_small", {}),
    ],
)
def test_larger_files_too(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    same_logits(name, arguments, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_has_timms_parameters_and_pictures(name: str) -> None:
    entry = resolve(f"timm:{name}")
    with torch.device("meta"):
        model, peer = build(make_spec(entry.name, {})), timm.create_model(name)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in peer.parameters())
    config = timm.data.resolve_data_config(model=timm.create_model(name))
    spec = make_spec(entry.name, {})
    assert (3, spec.input.height, spec.input.width) == tuple(config["input_size"])
    assert (spec.input.mean, spec.input.std) == (config["mean"], config["std"])
    assert (spec.input.crop_fraction, spec.input.interpolation) == (
        config["crop_pct"],
        config["interpolation"],
    )


def test_a_torch_file_and_another_number_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = theirs("test_resnet")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "m.pth")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(load(tmp_path / "m.pth", name="timm:test_resnet")(x), model(x))
    with caplog.at_level(logging.INFO, logger="isopatch"):
        fresh = load(tmp_path / "m.pth", name="timm:test_resnet", num_classes=3)
    assert fresh(x).shape == (2, 3) and "new classifier" in caplog.text


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    save_file(theirs("test_resnet").state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(IsopatchError, match=r"does not fit timm:resnet18: of \d+ tensors"):
        load(tmp_path / "m.safetensors", name="timm:resnet18")
    with pytest.raises(IsopatchError, match="belongs to timm:test_vit"):
        load(tmp_path / "m.safetensors", name="timm:test_vit")


def test_positions_are_resized_by_timms_rule(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From timm's file, and from our own run at another size, as timm itself does."""
    model = theirs("test_vit", img_size=64)
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    with caplog.at_level(logging.INFO, logger="isopatch"):
        larger = load(tmp_path / "m.safetensors", name="timm:test_vit", image_size=96)
    assert "fitted to the model by timm's own rule (pos_embed" in caplog.text
    rule = timm.models.vision_transformer.checkpoint_filter_fn
    expected = timm.create_model("test_vit", num_classes=7, img_size=96).eval()
    expected.load_state_dict(rule(model.state_dict(), expected))
    x = torch.randn(1, 3, 96, 96)
    assert torch.equal(larger(x), expected(x))
    save_model(tmp_path / "own", load(tmp_path / "m.safetensors", name="timm:test_vit", image_size=64))
    assert torch.equal(load(tmp_path / "own", image_size=96)(x), expected(x))
    with pytest.raises(UsageError, match="test_vit was built for 96x96 pictures, not 64x64"):
        larger(torch.randn(1, 3, 64, 64))


def test_our_own_folder_loads_alone(tmp_path: Path) -> None:
    model = ours("test_resnet", image_size=(32, 64))
    save_model(tmp_path, model)
    loaded = load(tmp_path)
    x = torch.randn(2, 3, 32, 64)
    assert torch.equal(loaded(x), model(x)) and loaded.spec == model.spec
    assert ModelSpec.from_json(json.loads(json.dumps(model.spec.to_json()))) == model.spec


def test_the_input_contract_is_timms() -> None:
    spec = make_spec("timm:resnet18.tv_in1k", {})
    assert (spec.input.interpolation, spec.input.crop_fraction) == ("bilinear", 0.875)
    spec = make_spec("timm:tf_efficientnet_b5.ns_jft_in1k", {})
    assert (spec.input.height, spec.input.crop_fraction) == (456, 0.934)
    assert make_spec("timm:convnext_base.fb_in22k_ft_in1k_384", {}).input.resize == "squash"
    assert make_spec("timm:resnetv2_50x1_bit.goog_in21k", {}).arguments["num_classes"] == 21843
    assert make_spec("timm:resnet18", {"image_size": 32}).input.crop_fraction == 1.0


def test_features_are_what_the_pooling_reads() -> None:
    """In (rows, cols) whatever the layout: their mean is what the classifier reads, for means."""
    x = torch.randn(2, 3, 96, 64)
    for name in ("test_resnet", "efficientnet_b0", "regnety_002", "swin_tiny_patch4_window7_224"):
        model = ours(name, image_size=(96, 64))
        with torch.no_grad():
            features, pooled = model.features(x), model.pooled(x)[:, 0]
        assert features.grid == (3, 2) and features.map.shape[2:] == (3, 2)
        assert torch.allclose(features.map.mean(dim=(2, 3)), pooled, atol=1e-6), name
        assert torch.equal(features.tokens.transpose(1, 2).unflatten(2, (3, 2)), features.map)
    vit = ours("test_vit", image_size=(96, 64))
    features = vit.features(x)
    assert features.grid == (6, 4) and features.tokens.shape == (2, 25, 64)
    assert torch.allclose(features.tokens[:, 0], vit.pooled(x)[:, 0], atol=1e-6)


def test_features_by_depth_are_timms_stages() -> None:
    x = torch.randn(1, 3, 64, 64)
    model = ours("resnet18")
    sizes = [tuple(f.map.shape[1:]) for f in model.features_by_depth(x)]
    assert sizes == [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert torch.equal(model.features(x, depth=4).map, model.features(x).map)
    with pytest.raises(UsageError, match="depth 5: the model has fewer blocks"):
        model.features(x, depth=5)


def test_a_model_without_a_map_is_still_described() -> None:
    facts = describe("timm:hiera_tiny_224")
    with torch.device("meta"):
        peer = timm.create_model("hiera_tiny_224")
    assert (facts["tokens"], facts["grid"]) == (None, None)
    assert facts["parameters"] == sum(p.numel() for p in peer.parameters())
    assert "no feature map" in render_show(facts)


def test_counts_are_those_of_our_own_model() -> None:
    """The wrapper and the counter see timm's ViT as ours: the same size, by two implementations."""
    own, wrapped = describe("vit_tiny_patch16_224"), describe("timm:vit_tiny_patch16_224")
    for key in ("parameters", "macs", "tokens", "grid"):
        assert own[key] == wrapped[key], key


def test_weight_decay_spares_what_timm_spares() -> None:
    assert no_weight_decay(ours("test_vit")) >= {"peer.pos_embed", "peer.cls_token"}
    assert no_weight_decay(ours("test_resnet")) == set()


def test_checking_and_describing_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    check_arguments("timm:test_resnet", {"image_size": 32})
    describe("timm:test_resnet", image_size=32)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:", "timm: names no model: give one of timm's, for example timm:resnet18"),
        ("timm:resnet", r"timm has no 'resnet' \(did you mean 'resnet\d+'\?\)"),
        ("timm:resnet18.tv", "timm has resnet18 with a1_in1k, .*tv_in1k"),
        ("timm:hf-hub:timm/resnet18", "unknown model"),
        ("timm:deepseek_vit_412m", "crop 'border', .* which isopatch does not prepare"),
    ],
)
def test_names_that_are_none(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        resolve(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("timm:test_resnet", {"kernel_size": 3}, "model.kernel_size: unknown"),
        (
            "timm:test_resnet",
            {"model": "resnet50"},
            "model.model: resnet50, but the name is timm:test_resnet",
        ),
        ("timm:vgg11", {"drop_path": 0.1}, "model.drop_path: 0.1, but timm:vgg11 takes none; leave it out"),
        ("timm:vgg11", {"image_size": 8}, "timm:vgg11 cannot take 8x8 pictures"),
        ("timm:test_resnet", {"drop_path": 1.5}, r"drop_path 1.5: must be a rate in \[0, 1\)"),
        ("timm:test_resnet", {"num_classes": 0}, "num_classes 0: must be at least 1"),
        ("timm:crossvit_tiny_240", {}, "logits are not the output of one linear layer"),
        ("timm:efficientformerv2_s0", {}, "logits are not the output of one linear layer"),
    ],
)
def test_arguments_that_cannot_be(name: str, arguments: dict[str, Any], problem: str) -> None:
    (found,) = check_arguments(name, arguments)
    assert re.search(problem, found), found


def test_rates_reach_the_peer() -> None:
    model = ours("resnet18", drop_path=0.3, dropout=0.4)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3) and model.peer.drop_rate == 0.4


class _Head(nn.Module):
    """A peer whose classifier is, or is not, the last step."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.last = last
        self.first, self.second = nn.Linear(3, 5), nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> Any:
        pooled = x.mean(dim=(2, 3))
        logits = self.first(pooled)
        if self.last == "mean":
            return (logits + self.second(pooled)) / 2
        if self.last == "in place":
            return logits.mul_(2)
        if self.last == "a part":
            return logits[:, :3]
        if self.last == "a tuple in training" and self.training:
            return logits, pooled
        if self.last == "another head in training":
            return self.second(pooled) if self.training else logits
        return logits.flatten(1)


@pytest.mark.parametrize(
    "last", ["mean", "in place", "a part", "a tuple in training", "another head in training"]
)
def test_a_step_after_the_classifier_is_noticed(last: str) -> None:
    with pytest.raises(UsageError, match="logits are not the output of one linear layer"):
        classifier_path(lambda: _Head(last), name="x", in_channels=3, size=(4, 4))


def test_control_a_view_of_the_classifiers_output_is_fine() -> None:
    assert classifier_path(lambda: _Head("a view"), name="x", in_channels=3, size=(4, 4)) == "first"
