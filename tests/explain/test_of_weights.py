"""Every explanation for every kind of model: it is drawn, or it says why not; no NaN, no warning."""

import json
import re

import pytest
import torch

from isopatch.explain.distance import distances
from isopatch.explain.of_weights import EXPLANATIONS
from isopatch.explain.parts import mixing_parts
from isopatch.models.bench_model import bench
from isopatch.models.cifar_resnet import cifar_resnet
from isopatch.models.convmixer import convmixer
from isopatch.models.cycle_mlp import cycle_mlp
from isopatch.models.deit import deit
from isopatch.models.gmlp import gmlp
from isopatch.models.hybrid import hybrid
from isopatch.models.metaformer import metaformer
from isopatch.models.mlp_mixer import mlp_mixer
from isopatch.models.mobilenet_v3 import mobilenet_v3
from isopatch.models.resmlp import resmlp
from isopatch.models.vision_permutator import vision_permutator
from isopatch.models.vit import vit

COMMON = {"dim": 8, "depth": 2, "patch_size": 4, "num_classes": 2}
WIDE, TINY = (16, 24), 4
ALWAYS = {"attention-distance", "receptive-field", "layers", "similarity", "filters"}
MLP_RATIOS = {"mlp_ratios": (2.0, 2.0), "num_classes": 2}


def small_vit(**given):
    return vit(**{**COMMON, "num_heads": 2, "image_size": WIDE, **given})


def small_permutator():
    stages = {"dims": (8, 8), "depths": (1, 1), "segment_dims": (4, 2), "transitions": (True,)}
    return vision_permutator(**stages, patch_size=4, image_size=16, **MLP_RATIOS)


def small_pyramid():
    settings = {"token_mixer": "depthwise", "stage_depths": (1, 1), "position": "none", "stem": "overlap"}
    return bench(**COMMON, image_size=(16, 32), **settings)


# name -> (what builds it, which explanations it has beside `ALWAYS`)
MODELS = {
    "vit": (small_vit, {"positions"}),
    "vit, one patch": (lambda: small_vit(image_size=TINY), {"positions"}),
    "vit, no positions": (lambda: small_vit(position="none"), set()),
    "deit": (lambda: deit(**COMMON, num_heads=2, image_size=WIDE, distilled=True), {"positions", "tokens"}),
    "hybrid": (
        lambda: hybrid(dim=8, depth=1, num_heads=2, layers=(1,), image_size=WIDE, num_classes=2),
        {"positions"},
    ),
    "convmixer": (lambda: convmixer(**COMMON, kernel_size=5, image_size=(17, 26)), {"kernels"}),
    "convmixer, one patch": (lambda: convmixer(**COMMON, kernel_size=4, image_size=TINY), {"kernels"}),
    "mobilenet": (lambda: mobilenet_v3(**COMMON, image_size=WIDE), {"kernels"}),
    "mixer": (lambda: mlp_mixer(**COMMON, image_size=WIDE), {"token-mixing"}),
    "resmlp, one patch": (lambda: resmlp(**COMMON, image_size=TINY), {"token-mixing"}),
    "gmlp": (lambda: gmlp(**COMMON, image_size=WIDE), {"token-mixing"}),
    "pool, one patch": (lambda: metaformer(**COMMON, image_size=TINY), set()),
    "identity": (lambda: metaformer(**COMMON, image_size=WIDE, token_mixer="identity"), set()),
    "random": (lambda: metaformer(**COMMON, image_size=WIDE, token_mixer="random"), {"token-mixing"}),
    "resnet": (lambda: cifar_resnet(depth=8, width=4, num_classes=2), set()),
    "cycle": (lambda: cycle_mlp(dims=(8, 8), depths=(1, 1), image_size=32, **MLP_RATIOS), set()),
    "permutator": (small_permutator, set()),
    "pyramid": (small_pyramid, {"kernels"}),
}
CONSTANT = ("vit", "deit", "convmixer, one patch", "gmlp", "resnet")


def size_of(name):
    if name in ("resnet", "cycle"):
        return (32, 32)
    if "one patch" in name:
        return (4, 4)
    return {"convmixer": (17, 26), "permutator": (16, 16), "pyramid": (16, 32)}.get(name, WIDE)


def sound(value):
    """Whether JSON holds it; NaN raises."""
    json.dumps(value, allow_nan=False)
    return True


CASES = [(name, False) for name in MODELS] + [(name, True) for name in CONSTANT]


@pytest.mark.parametrize(("name", "constant"), CASES)
def test_every_model_is_explained_or_says_why_not(name, constant, context):
    build, has = MODELS[name]
    model = build()
    size = size_of(name)
    sample = torch.zeros(5, 3, *size) if constant else torch.randn(5, 3, *size)
    given = context(model, sample=sample, other=model, other_name="again")
    told = set()
    for explanation in EXPLANATIONS:
        reason = explanation.missing(model)
        if reason is not None:
            assert reason.startswith("has no "), reason
            continue
        told.add(explanation.name)
        if constant and explanation.needs == "weights":
            continue  # the pictures are not looked at
        figures = explanation.make(given)
        assert len({figure.name for figure in figures}) == len(figures) > 0
        for figure in figures:
            assert figure.svg is not None
            assert figure.svg.startswith("<svg")
            assert "nan" not in figure.caption.lower().split()
            assert sound(figure.data)
    assert told == ALWAYS | has


def test_grey_models_are_explained(context):
    model = convmixer(**COMMON, kernel_size=3, image_size=16, in_channels=1)
    given = context(model, sample=torch.randn(5, 1, 16, 16))
    for explanation in EXPLANATIONS:
        if explanation.needs != "other" and explanation.missing(model) is None:
            assert all(sound(figure.data) for figure in explanation.make(given))


@pytest.mark.parametrize("name", MODELS)
def test_parts_that_mix_are_found_in_every_block(name):
    model = MODELS[name][0]()
    blocks = {part.block for part in mixing_parts(model)}
    expected = {"hybrid": {1}, "resnet": {1, 2, 3}, "cycle": {1, 2, 3}, "permutator": {1, 2, 3}}
    assert blocks == expected.get(name, {1, 2})


def test_constant_pictures_are_warned_about_and_decide_nothing(context):
    model = convmixer(**COMMON, kernel_size=3, image_size=16)
    by_name = {explanation.name: explanation for explanation in EXPLANATIONS}
    options = {"second": model, "second_name": "another"}
    for sample, count in ((torch.zeros(6, 3, 16, 16), 2), (torch.randn(6, 3, 16, 16), 3)):
        given = context(model, sample=sample, other=model, other_name="again", options=options)
        figures = by_name["similarity"].make(given)
        assert len(figures) == count
        assert (figures[0].warning is not None) == (count == 2)


def test_a_second_model_that_cannot_be_drawn_is_told_of(context):
    model = convmixer(**COMMON, kernel_size=3, image_size=16)
    other = convmixer(**COMMON, kernel_size=3, image_size=16)
    other.blocks = torch.nn.ModuleList([torch.nn.Identity()])  # nothing that mixes
    make = {explanation.name: explanation.make for explanation in EXPLANATIONS}["attention-distance"]
    (figure,) = make(context(model, sample=torch.randn(2, 3, 16, 16), other=other, other_name="the other"))
    assert "the other has no part that mixes places" in figure.caption
    assert list(figure.data) == ["it"]
    (figure,) = make(context(model, sample=torch.randn(2, 3, 16, 16), other=model, other_name="the other"))
    assert list(figure.data) == ["it", "the other"]


def test_two_other_models_stand_in_the_same_plot(context):
    """The second is drawn from its own pictures, and one that cannot be is told of, whichever it is."""
    model, other, second = (convmixer(**COMMON, kernel_size=k, image_size=16) for k in (3, 5, 7))
    sample = torch.randn(2, 3, 16, 16)
    make = {explanation.name: explanation.make for explanation in EXPLANATIONS}["attention-distance"]
    options = {"second": second, "second_name": "the second"}
    given = {"sample": sample, "other": other, "other_name": "the other", "options": options}
    (figure,) = make(context(model, **given))
    assert list(figure.data) == ["it", "the other", "the second"]
    assert all(f"> {name}<" in figure.svg or f">{name}<" in figure.svg for name in figure.data)
    for name, alone in (("it", model), ("the other", other), ("the second", second)):
        (single,) = make(context(alone, sample=sample))
        assert figure.data[name] == single.data["it"]
    assert figure.data["the other"] != figure.data["the second"]
    second.blocks = torch.nn.ModuleList([torch.nn.Identity()])
    (figure,) = make(context(model, **given))
    assert list(figure.data) == ["it", "the other"]
    assert "the second has no part that mixes places" in figure.caption
    assert {one.name for one in EXPLANATIONS if one.compares} == {"attention-distance", "similarity"}


@pytest.mark.parametrize("names", [["it", "b", "c"], ["it", "x" * 60, "y" * 60]])
def test_the_legend_stands_inside_the_figure(context, names):
    model = convmixer(**COMMON, kernel_size=3, image_size=16)
    make = {explanation.name: explanation.make for explanation in EXPLANATIONS}["attention-distance"]
    options = {"second": model, "second_name": names[2]}
    sample = torch.randn(2, 3, 16, 16)
    (figure,) = make(context(model, sample=sample, other=model, other_name=names[1], options=options))
    for name in names:
        (x, y) = re.search(rf'x="([-\d.]+)" y="([-\d.]+)"[^>]*>{name}<', figure.svg).groups()
        assert float(x) > 0 and float(y) > 6, name


def test_kernels_of_one_place_look_as_far_as_an_identity(context):
    """By the statistic: all weight lies on the query's own place."""
    sample = torch.randn(2, 3, 16, 16)
    narrow = convmixer(**COMMON, kernel_size=1, image_size=16)
    identity = metaformer(**COMMON, image_size=16, token_mixer="identity")
    for model, units in ((narrow, 8), (identity, 1)):
        layers = distances(model, sample)
        assert [layer.block for layer in layers] == [1, 2]
        assert all(layer.reach.distances.tolist() == [0.0] * units for layer in layers)
    wide = distances(convmixer(**COMMON, kernel_size=3, image_size=16), sample)
    assert all((layer.reach.distances > 0).all() for layer in wide)  # the control
    assert [type(part.module) for part in mixing_parts(narrow)] == [torch.nn.Conv2d] * 2  # none of channels


def test_explanations_have_names_of_their_own():
    assert len({explanation.name for explanation in EXPLANATIONS}) == len(EXPLANATIONS) == 9
    assert all(explanation.source for explanation in EXPLANATIONS)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["timm:convnext_atto", "torchvision:resnet18", "timm:vit_tiny_patch16_224"])
def test_models_of_other_libraries(model, context):
    import isopatch

    made = isopatch.create_model(model, image_size=64, num_classes=2)
    given = context(made, sample=torch.randn(5, 3, 64, 64), other=made, other_name="again")
    for explanation in EXPLANATIONS:
        if explanation.missing(made) is None:
            assert all(sound(figure.data) for figure in explanation.make(given))
