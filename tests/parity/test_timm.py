"""Same weights, same logits, same input gradient as timm, for every family.

Every tensor of the reference model is drawn at random, biases, tokens and BatchNorm statistics included, so
that no term of the formula is hidden behind a zero or a one.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isopatch.models.formats.timm import from_isopatch, to_isopatch
from isopatch.models.matching import load_strict
from isopatch.models.spec import build, make_spec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    timm = pytest.importorskip("timm")
    from timm.layers import GatedMlp
    from timm.models.convmixer import ConvMixer
    from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock, SpatialGatingBlock
    from timm.models.vision_transformer_relpos import VisionTransformerRelPos

LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
SMALL = {"image_size": 32, "num_classes": 11}  # 2 x 2 patches of 16


@dataclasses.dataclass(frozen=True)
class Case:
    """One of our models and timm's counterpart."""

    name: str
    arguments: dict[str, Any]
    reference: Callable[[], nn.Module]
    norm_after_pool: bool = False
    train: bool = False

    def ours(self) -> nn.Module:
        return build(make_spec(self.name, self.arguments))


def vit(name: str, ours: dict[str, Any], theirs: dict[str, Any], **options: Any) -> Case:
    def reference() -> nn.Module:
        return timm.create_model(name, depth=2, img_size=32, num_classes=11, **theirs)

    return Case(name, {"depth": 2, **SMALL, **ours}, reference, **options)


def convmixer(name: str, **options: Any) -> Case:
    # timm's ConvMixer functions take no other depth; the published sizes are compared in the slow tests.
    kernel, patch, act = {
        "convmixer_768_32": (7, 7, nn.ReLU),
        "convmixer_1536_20": (9, 7, nn.GELU),
        "convmixer_1024_20_ks9_p14": (9, 14, nn.GELU),
    }[name]

    def reference() -> nn.Module:
        return ConvMixer(48, 2, kernel_size=kernel, patch_size=patch, act_layer=act, num_classes=11)

    return Case(name, {"depth": 2, "dim": 48, "image_size": 35, "num_classes": 11}, reference, **options)


def relative_reference(class_token: bool) -> nn.Module:
    return VisionTransformerRelPos(
        img_size=(32, 48),
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        num_classes=11,
        class_token=class_token,
        global_pool="token" if class_token else "avg",
        rel_pos_type="bias",
        init_values=None,
        fc_norm=False,
    )


RELATIVE = {
    "dim": 48,
    "depth": 2,
    "num_heads": 3,
    "patch_size": 8,
    "image_size": (32, 48),
    "num_classes": 11,
    "position": "relative",
}


def mlp(architecture: str, ours: dict[str, Any], **theirs: Any) -> Case:
    """timm's one class for MLP-Mixer, ResMLP and gMLP; its named functions take no other depth."""
    shape = {"dim": 24, "depth": 2, "patch_size": 8, "image_size": 32, "num_classes": 11}

    def reference() -> nn.Module:
        return MlpMixer(img_size=32, patch_size=8, num_blocks=2, embed_dim=24, num_classes=11, **theirs)

    return Case(MLP_NAMES[architecture], {**shape, **ours}, reference)


MLP_NAMES = {"mixer": "mixer_s32_224", "resmlp": "resmlp_12_224", "gmlp": "gmlp_ti16_224"}


def hybrid(name: str, side: int) -> Case:
    small = {"embed_dim": 48, "depth": 1, "num_heads": 3, "img_size": side, "num_classes": 11}

    def reference() -> nn.Module:
        return timm.create_model(name, **small)

    ours = {"dim": 48, "depth": 1, "num_heads": 3, "image_size": side, "num_classes": 11}
    return Case(name, ours, reference)


CASES = {
    "vit class token": vit("vit_tiny_patch16_224", {}, {}),
    "vit no qkv bias, layer scale": vit(
        "vit_tiny_patch16_224",
        {"qkv_bias": False, "layer_scale": 0.1},
        {"qkv_bias": False, "init_values": 0.1},
    ),
    "vit mean, then norm": vit(
        "vit_tiny_patch16_224", {"pool": "mean-norm"}, {"global_pool": "avg"}, norm_after_pool=True
    ),
    "vit norm, then mean": vit(
        "vit_tiny_patch16_224", {"pool": "norm-mean"}, {"global_pool": "avg", "fc_norm": False}
    ),
    "vit no class token": vit(
        "vit_base_patch16_gap_224", {"dim": 96, "num_heads": 4}, {"embed_dim": 96, "num_heads": 4}
    ),
    "vit tanh gelu": vit("vit_tiny_patch16_224", {"activation": "gelu_tanh"}, {"act_layer": "gelu_tanh"}),
    "vit relu": vit("vit_tiny_patch16_224", {"activation": "relu"}, {"act_layer": "relu"}),
    "vit no positions": vit("vit_tiny_patch16_224", {"position": "none"}, {"pos_embed": "none"}),
    "vit relative bias": Case(
        "vit", {**RELATIVE, "class_token": False, "pool": "norm-mean"}, lambda: relative_reference(False)
    ),
    "vit relative bias, class token": Case("vit", RELATIVE, lambda: relative_reference(True)),
    "deit": vit("deit_tiny_patch16_224", {}, {}),
    "deit distilled": vit("deit_tiny_distilled_patch16_224", {}, {}),
    "deit distilled, training": vit("deit_tiny_distilled_patch16_224", {}, {}, train=True),
    "deit3": vit("deit3_small_patch16_224", {}, {}),
    "convmixer relu k7 p7": convmixer("convmixer_768_32"),
    "convmixer gelu k9 p7": convmixer("convmixer_1536_20"),
    "convmixer gelu k9 p14": convmixer("convmixer_1024_20_ks9_p14"),
    "convmixer relu, training": convmixer("convmixer_768_32", train=True),
    "convmixer gelu, training": convmixer("convmixer_1536_20", train=True),
    "mixer": mlp("mixer", {}),
    "mixer tanh gelu": mlp(
        "mixer", {"activation": "gelu_tanh"}, act_layer=functools.partial(nn.GELU, approximate="tanh")
    ),
    "resmlp": mlp("resmlp", {}, mlp_ratio=4, block_layer=ResBlock, norm_layer=Affine),
    "gmlp": mlp("gmlp", {}, mlp_ratio=6, block_layer=SpatialGatingBlock, mlp_layer=GatedMlp),
    "hybrid r50 s16": hybrid("vit_base_r50_s16_224", 64),
    "hybrid r26 s32": hybrid("vit_small_r26_s32_224", 96),
    "hybrid root alone": hybrid("vit_tiny_r_s16_p8_224", 64),
    "convmixer even kernel, training": Case(
        "convmixer",
        {"dim": 24, "depth": 2, "kernel_size": 8, "patch_size": 2, "image_size": 19, "num_classes": 11},
        lambda: ConvMixer(24, 2, kernel_size=8, patch_size=2, num_classes=11),
        train=True,
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # timm's; ours pads by integers
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_same_logits_and_gradients(case: Case, dtype: torch.dtype) -> None:
    errors = compare(case, dtype, side=case.arguments["image_size"], batch=3)
    assert max(errors.values()) <= LIMITS[dtype], errors


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_key_map_goes_both_ways(case: Case) -> None:
    theirs = case.reference().state_dict()
    architecture = make_spec(case.name, case.arguments).architecture
    ours = to_isopatch(theirs, architecture)
    assert ours.keys() == case.ours().state_dict().keys()
    back = from_isopatch(ours, architecture, norm_after_pool=case.norm_after_pool)
    assert {key: value.data_ptr() for key, value in back.items()} == {
        k: v.data_ptr() for k, v in theirs.items()
    }


def test_parity_would_notice_another_activation() -> None:
    # Negative control: ConvMixer-768/32's weights in a GELU model are not the published model.
    case = CASES["convmixer relu k7 p7"]
    wrong = dataclasses.replace(case, arguments={**case.arguments, "activation": "gelu"})
    assert compare(wrong, torch.float64, side=35, batch=2)["logits"] > 1e-3


def test_parity_would_notice_pool_and_norm_swapped() -> None:
    case = CASES["vit mean, then norm"]
    wrong = dataclasses.replace(case, arguments={**case.arguments, "pool": "norm-mean"})
    assert compare(wrong, torch.float64, side=32, batch=2)["logits"] > 1e-3


def test_training_mode_returns_the_mean_of_both_heads() -> None:
    case = CASES["deit distilled"]
    ours = case.ours().train()
    x = torch.randn(2, 3, 32, 32)
    heads = ours(x, heads=True)
    torch.testing.assert_close(ours(x), (heads["cls"] + heads["dist"]) / 2)


def test_no_weight_decay_is_timms() -> None:
    from isopatch.models.spec import no_weight_decay

    for key in ("vit class token", "deit", "deit distilled", "deit3", "convmixer gelu k9 p7"):
        case = CASES[key]
        reference, ours = case.reference(), case.ours()
        declared = reference.no_weight_decay() if key[:3] in ("vit", "dei") else set()
        theirs = {name: p for name, p in reference.named_parameters() if name in declared}
        expected = set(to_isopatch(theirs, ours.spec.architecture))
        assert no_weight_decay(ours) == expected, key


def randomise(model: nn.Module) -> None:
    """Give every tensor values that matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            scale = 1 / tensor[0].numel() ** 0.5 if tensor.dim() > 1 else 0.3
            weight = tensor.dim() == 1 and not name.endswith(("bias", "running_mean"))
            centre = 1.0 if weight else 0.0
            value = centre + scale * noise
            tensor.copy_(value.abs() + 0.1 if name.endswith("running_var") else value)


def compare(case: Case, dtype: torch.dtype, *, side: int | tuple[int, int], batch: int) -> dict[str, float]:
    """Relative errors of logits, input gradient and, in training, parameter gradients and buffers."""
    reference = case.reference().to(dtype).train(case.train)
    randomise(reference)
    ours = case.ours().to(dtype).train(case.train)
    state = to_isopatch(reference.state_dict(), ours.spec.architecture)
    load_strict(ours, state, where="timm", name=case.name)
    size = (side, side) if isinstance(side, int) else side
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(batch, case.arguments["num_classes"], generator=generator, dtype=torch.float64).to(
        dtype
    )
    if ours.spec.architecture == "hybrid":  # in another layout sums are taken in another order: ReLU flips
        reference, x = (
            reference.to(memory_format=torch.channels_last),
            x.to(memory_format=torch.channels_last),
        )
    logits, gradient = run(ours, x, weight)
    expected_logits, expected_gradient = run(reference, x, weight)
    errors = {"logits": relative(logits, expected_logits), "input": relative(gradient, expected_gradient)}
    if case.train:
        grads = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
        expected = to_isopatch(grads, ours.spec.architecture)
        for name, parameter in ours.named_parameters():
            # A bias before BatchNorm has gradient 0 up to rounding: compare on the scale of all gradients.
            scale = max(float(g.abs().max()) for g in expected.values())
            errors[name] = float((parameter.grad - expected[name]).abs().max()) / scale
        after = to_isopatch(reference.state_dict(), ours.spec.architecture)
        for name, buffer in ours.named_buffers():
            errors[name] = relative(buffer.to(dtype), after[name].to(dtype))
    return errors


def run(model: nn.Module, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    (logits * weight).sum().backward()
    assert x.grad is not None
    return logits.detach(), x.grad


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).abs().max() / expected.abs().max())
