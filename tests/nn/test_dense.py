"""Dense prediction: every pixel gets logits, at the right place, from every architecture."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import isopatch
from isopatch.errors import UsageError
from isopatch.models.architectures import MODULES
from isopatch.models.table import MODELS
from isopatch.nn.classifier import Classifier, Encoded, Features
from isopatch.nn.dense import DenseHead, Segmenter
from isopatch.nn.layout import as_tokens

VIT: dict[str, Any] = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "image_size": (16, 24)}
PLAIN: dict[str, Any] = {"dim": 16, "depth": 2, "patch_size": 4, "image_size": (16, 24)}
# architecture -> arguments of a model for pictures of 16 x 24
SMALL: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "deit": {**VIT, "distilled": True},
    "deit3": VIT,
    "convmixer": {**PLAIN, "kernel_size": 3},
    "mlp_mixer": PLAIN,
    "resmlp": PLAIN,
    "gmlp": PLAIN,
    "hybrid": {**VIT, "patch_size": 1, "layers": (1,)},
    "metaformer": PLAIN,
    "mobilenet_v3": {**PLAIN, "kernel_size": 3},
    "cifar_resnet": {"depth": 8, "width": 8, "image_size": (16, 24)},
    "cycle_mlp": {"dims": (8, 16), "depths": (1, 1), "mlp_ratios": (2, 2), "image_size": (16, 24)},
    "vision_permutator": {
        "dims": (8, 16),
        "depths": (1, 1),
        "segment_dims": (4, 2),
        "mlp_ratios": (2, 2),
        "transitions": (True,),
        "patch_size": 4,
        "image_size": 16,
    },
    "bench": {**PLAIN, "token_mixer": "depthwise", "stem": "overlap"},
}
SQUARE = ("vision_permutator",)


def make(architecture: str, **changes: Any) -> Classifier:
    torch.manual_seed(0)
    name = next(name for name, entry in MODELS.items() if entry.architecture == architecture)
    return isopatch.create_model(name, **{**SMALL[architecture], "num_classes": 5, **changes})


def test_every_architecture_is_tried() -> None:
    external = {"timm", "torchvision"}  # other libraries' models, tried below
    assert SMALL.keys() | external == MODULES.keys()


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("depth", [None, 1, (0, 2)])
def test_every_architecture_gives_logits_for_every_pixel(architecture: str, depth: Any) -> None:
    model = Segmenter(make(architecture), 3, depth=depth)
    size = (16, 16) if architecture in SQUARE else (16, 24)
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 3, *size)
    logits.square().sum().backward()
    # From the stem on; what lies behind the deepest map read is not used.
    assert all(p.grad is not None for p in model.backbone.stem.parameters())  # type: ignore[union-attr]
    assert all(p.grad is not None for p in model.head.parameters())


def test_models_of_other_libraries_too() -> None:
    backbone = isopatch.create_model("timm:test_resnet", num_classes=5, image_size=32)
    model = Segmenter(backbone, 3, depth=(1, 2)).eval()
    assert model(torch.randn(2, 3, 32, 48)).shape == (2, 3, 32, 48)


@pytest.mark.parametrize("architecture", ["convmixer", "mobilenet_v3", "cifar_resnet"])
@pytest.mark.parametrize("size", [(17, 26), (31, 5), (3, 40)])
def test_any_picture_size(architecture: str, size: tuple[int, int]) -> None:
    model = Segmenter(make(architecture), 3).eval()
    assert model(torch.randn(2, 3, *size)).shape == (2, 3, *size)


def test_the_border_that_fills_no_patch_is_seen() -> None:
    """A ConvMixer alone leaves it out; here the picture is continued to whole patches."""
    backbone = make("convmixer").eval()
    model = Segmenter(backbone, 3)
    x = torch.randn(1, 3, 18, 26)
    changed = x.clone()
    changed[:, :, 17:, :] += 1
    torch.testing.assert_close(backbone(x), backbone(changed))  # the control
    assert not torch.allclose(model(x), model(changed))
    continued = F.pad(x, (0, 2, 0, 2), mode="replicate")
    torch.testing.assert_close(model(x), model(continued)[:, :, :18, :26])


def test_a_vit_takes_what_its_patches_make_its_size() -> None:
    model = Segmenter(make("vit"), 3)
    assert model(torch.randn(1, 3, 15, 22)).shape == (1, 3, 15, 22)
    with pytest.raises(UsageError, match="pass image_size"):
        model(torch.randn(1, 3, 16, 28))


def test_the_head_is_a_linear_classifier_of_each_token() -> None:
    backbone = make("deit").eval()
    model = Segmenter(backbone, 3).eval()
    x = torch.randn(1, 3, 16, 24)
    layer = model.head.linear[0]
    assert isinstance(layer, nn.Conv2d)
    places = backbone.features(x).tokens[:, 2:] @ layer.weight.flatten(1).T + layer.bias
    coarse = places.transpose(1, 2).reshape(1, 3, 4, 6)
    expected = F.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(x), expected)


def test_several_depths_are_one_linear_layer_over_all_of_them() -> None:
    backbone = make("cifar_resnet").eval()  # whose maps differ in size and channels
    model = Segmenter(backbone, 3, depth=(0, 3)).eval()
    x = torch.randn(2, 3, 16, 24)
    maps = [backbone.features(x, depth=depth).map for depth in (0, 3)]
    assert [m.shape[1:] for m in maps] == [(8, 16, 24), (32, 4, 6)]
    full = torch.cat([F.interpolate(m, size=(16, 24), mode="bilinear") for m in maps], dim=1)
    first, second = model.head.linear
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d) and second.bias is None
    weight = torch.cat([first.weight, second.weight], dim=1)
    torch.testing.assert_close(model(x), F.conv2d(full, weight, first.bias), atol=1e-5, rtol=1e-4)


class OnePlace(Classifier):
    """Features that mark the place of the brightest patch of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict()
        self.scale = nn.Parameter(torch.ones(()))
        self.spec = SimpleNamespace(arguments={"in_channels": 1}, input=SimpleNamespace(height=40, width=56))

    def encode(self, x: Tensor) -> Encoded:
        marked = self.scale * F.max_pool2d(x, 8)
        features = Features(as_tokens(marked), (marked.shape[2], marked.shape[3]), marked)
        return Encoded(features, marked.mean((2, 3)).unsqueeze(1))

    def features_by_depth(self, x: Tensor) -> Iterator[Features]:
        yield self.encode(x).features


def centre_of_mass(weights: Tensor) -> tuple[float, float]:
    """In pixels; the middle of pixel i is i."""
    rows, cols = (torch.arange(side, dtype=weights.dtype) for side in weights.shape)
    total = weights.sum()
    return float((weights.sum(1) @ rows) / total), float((weights.sum(0) @ cols) / total)


@pytest.mark.parametrize("place", [(1, 1), (1, 4), (3, 5)])
def test_logits_stand_where_their_features_come_from(place: tuple[int, int]) -> None:
    model = Segmenter(OnePlace(), 1)
    with torch.no_grad():
        model.head.linear[0].weight.fill_(1.0)  # type: ignore[union-attr, operator]
    row, col = place
    picture = torch.zeros(1, 1, 40, 56)
    picture[0, 0, 8 * row + 5, 8 * col + 2] = 1
    logits = model(picture)[0, 0].detach()
    # The peak is the four pixels around the middle of the cell; there is no shift of half a pixel.
    assert {tuple(p) for p in (logits == logits.max()).nonzero().tolist()} == {
        (8 * row + i, 8 * col + j) for i in (3, 4) for j in (3, 4)
    }
    assert centre_of_mass(logits) == pytest.approx((8 * row + 3.5, 8 * col + 3.5), abs=1e-4)
    shifted = F.interpolate(F.max_pool2d(picture, 8), (40, 56), mode="bilinear", align_corners=True)[0, 0]
    assert centre_of_mass(shifted) != pytest.approx((8 * row + 3.5, 8 * col + 3.5), abs=0.2)  # control


@pytest.mark.parametrize("architecture", ["vit", "convmixer"])
def test_a_bright_patch_of_a_real_stem_shows_in_its_own_cell(architecture: str) -> None:
    """A stem that averages its patch, read at depth 0, in a picture that needs continuing."""
    size = {"image_size": (18, 26)} if architecture == "convmixer" else {"position": "none"}
    backbone = make(architecture, **size).eval()
    model = Segmenter(backbone, 1, depth=0).eval()
    with torch.no_grad():
        backbone.stem.proj.weight.fill_(1 / 48)  # type: ignore[union-attr, operator]
        model.head.linear[0].weight.fill_(1.0)  # type: ignore[union-attr, operator]
    for row, col in ((0, 0), (2, 3), (4, 6)):
        picture = torch.zeros(1, 3, 18, 26)
        picture[:, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = 10
        logits = model(picture)[0, 0]
        found = divmod(int(logits.argmax()), 26)
        assert (found[0] // 4, found[1] // 4) == (row, col)


def test_frozen_trains_the_head_alone() -> None:
    backbone = make("convmixer").train()
    model = Segmenter(backbone, 3, freeze=True)
    model.train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model(torch.randn(2, 3, 16, 24)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(p.grad is not None for p in model.head.parameters())


def test_not_frozen_changes_the_backbone() -> None:
    backbone = make("convmixer").train()
    model = Segmenter(backbone, 3)
    before = {name: value.clone() for name, value in backbone.state_dict().items() if "heads" not in name}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 16, 24)).square().sum().backward()
    optimizer.step()
    same = [name for name, value in before.items() if torch.equal(value, backbone.state_dict()[name])]
    assert same == []


def test_building_one_leaves_the_backbone_as_it_was() -> None:
    backbone = make("convmixer").train()
    backbone.stem.eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    modes = [module.training for module in backbone.modules()]
    Segmenter(backbone, 3)
    assert [module.training for module in backbone.modules()] == modes
    assert True in modes and False in modes
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("depth", "message"),
    [(3, "depth 3"), ((0, 7), "depth 7"), (-1, "depth"), ((), "name at least one")],
)
def test_depths_that_are_not_there_are_refused(depth: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Segmenter(make("convmixer"), 3, depth=depth)


def test_a_backbone_without_a_spec_is_refused() -> None:
    backbone = make("convmixer")
    backbone.spec = None
    with pytest.raises(UsageError, match="has no spec"):
        Segmenter(backbone, 3)
    with pytest.raises(UsageError, match="num_classes 0"):
        Segmenter(make("convmixer"), 0)


def test_a_head_takes_its_own_number_of_maps() -> None:
    with pytest.raises(ValueError, match="argument"):
        DenseHead([4, 4], 3)([torch.zeros(1, 4, 2, 2)], (4, 4))
