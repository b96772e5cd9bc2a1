"""The bench's settings: all combinations train, what cannot exist is refused, a flip changes one thing."""

from __future__ import annotations

import copy
import re
from typing import Any, get_args

import pytest
import torch

from isopatch import cli
from isopatch.errors import UsageError
from isopatch.models.bench_model import Init, bench, no_weight_decay
from isopatch.models.bench_slots import ChannelMixer, Norm, Residual, Stem, TokenMixer
from isopatch.models.sizes.bench import bench_preset
from isopatch.models.spec import build, check_arguments, make_spec
from isopatch.nn.classifier import Classifier
from isopatch.nn.step import NormPlace

SIZE: dict[str, Any] = {
    "dim": 8,
    "depth": 2,
    "patch_size": 4,
    "image_size": (16, 24),
    "num_classes": 5,
    "in_channels": 2,
}
PYRAMID = {"stage_depths": (1, 1)}
DEIT = {"class_token": True, "pool": "class", "num_heads": 2}


def train_step(model: Classifier, *, without_gradient: str = "nothing") -> None:
    """One step of training; every parameter gets a gradient, finite and, but for a suffix, not zero."""
    x = torch.randn(4, 2, 16, 24)
    logits = model.train()(x)
    assert logits.shape == (4, 5)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or name.endswith(without_gradient), name


@pytest.mark.parametrize("shape", [{}, PYRAMID], ids=["isotropic", "pyramid"])
@pytest.mark.parametrize("stem", get_args(Stem))
@pytest.mark.parametrize("token_mixer", get_args(TokenMixer))
def test_every_mixer_on_every_stem_trains(token_mixer: Any, stem: Any, shape: dict[str, Any]) -> None:
    train_step(bench(**SIZE, token_mixer=token_mixer, stem=stem, **shape))


@pytest.mark.parametrize("channel_mixer", get_args(ChannelMixer))
@pytest.mark.parametrize("norm", get_args(Norm))
@pytest.mark.parametrize("norm_place", get_args(NormPlace))
def test_every_channel_mixer_with_every_norm_in_every_place_trains(
    channel_mixer: Any, norm: Any, norm_place: Any
) -> None:
    place = "both" if channel_mixer == "pointwise" else "mlp"
    model = bench(
        **SIZE,
        **DEIT,
        channel_mixer=channel_mixer,
        norm=norm,
        norm_place=norm_place,
        stem_norm=True,
        activation_place=place,
    )
    # What a bias adds right before a BatchNorm, that takes away again.
    train_step(model, without_gradient="bias" if norm == "batch" else "nothing")


@pytest.mark.parametrize(
    ("token_mixer", "residual"),
    [*(("depthwise", residual) for residual in get_args(Residual)), ("gate", "block"), ("gate", "none")],
)
def test_every_residual_pattern_trains_with_what_belongs_to_skips(token_mixer: Any, residual: Any) -> None:
    skips = {} if residual == "none" else {"layer_scale": 0.1, "drop_path": 0.1}
    model = bench(**SIZE, token_mixer=token_mixer, residual=residual, **skips)
    train_step(model)
    scales = [name for name, _ in model.named_parameters() if name.endswith("scale")]
    assert len(scales) == 2 * {"each": 2, "token": 1, "block": 1, "none": 0}[residual]


@pytest.mark.parametrize("init", get_args(Init))
@pytest.mark.parametrize("position", ["learned", "learned-2d", "relative"])
def test_every_first_draw_sets_positions(init: Any, position: Any) -> None:
    model = bench(**SIZE, **DEIT, position=position, init=init)
    found = {name: tensor.std().item() for name, tensor in model.named_parameters() if "head" not in name}
    positions = {key: std for key, std in found.items() if key.startswith("position") or "relative" in key}
    assert positions
    assert all(0.005 < std < 0.04 for std in positions.values()), positions
    assert no_weight_decay(model) == {"prefix.cls_token", *positions}


@pytest.mark.parametrize("init", get_args(Init))
def test_a_spatial_gate_starts_open_whatever_the_scheme(init: Any) -> None:
    gated = bench(**SIZE, token_mixer="gate", init=init)
    biases = [tensor for name, tensor in gated.named_parameters() if name.endswith("gate.linear.bias")]
    assert len(biases) == 2
    assert all(torch.equal(bias, torch.ones_like(bias)) for bias in biases)


REFUSED = {
    r"class_token true cannot .* token_mixer 'depthwise'": {**DEIT, "token_mixer": "depthwise"},
    r"class_token true cannot .* token_mixer 'token-mlp'": {**DEIT, "token_mixer": "token-mlp"},
    r"class_token true cannot .* token_mixer 'identity'": {**DEIT, "token_mixer": "identity"},
    r"class_token true cannot .* stage_depths": {**DEIT, **PYRAMID},
    r"pool 'class' reads the class token, class_token is false": {"pool": "class"},
    r"distillation_token true needs class_token true": {"distillation_token": True},
    r"distillation_token true .* pool 'class'": {**DEIT, "distillation_token": True, "pool": "norm-mean"},
    r"position 'relative' .* token_mixer is 'pool'": {"position": "relative", "token_mixer": "pool"},
    r"token_mixer 'gate' stands inside an MLP, channel_mixer is 'pointwise'": {
        "token_mixer": "gate",
        "channel_mixer": "pointwise",
        "activation_place": "none",
    },
    r"activation_place 'token' .* token_mixer 'gate'": {"token_mixer": "gate", "activation_place": "token"},
    r"residual 'token' .* token_mixer 'gate'": {"token_mixer": "gate", "residual": "token"},
    r"activation_place 'mlp' .* channel_mixer 'pointwise' and token_mixer 'attention'": {
        "channel_mixer": "pointwise"
    },
    r"norm_place 'after-sum' .* residual 'token'": {"norm_place": "after-sum", "residual": "token"},
    r"layer_scale 0.1 .* residual is 'none'": {"layer_scale": 0.1, "residual": "none"},
    r"drop_path: 0.1, but the bench with residual 'none' takes none": {"drop_path": 0.1, "residual": "none"},
    r"attention_dropout: 0.1, but the bench with token_mixer 'pool' takes none": {
        "attention_dropout": 0.1,
        "token_mixer": "pool",
    },
    r"^dropout: 0.1, but the bench with token_mixer 'pool' and channel_mixer 'pointwise'": {
        "dropout": 0.1,
        "token_mixer": "pool",
        "channel_mixer": "pointwise",
        "activation_place": "both",
    },
    r"stage_dims \[8, 16\] without stage_depths": {"stage_dims": (8, 16)},
    r"stage_depths \[2\]: a pyramid has two or more stages": {"stage_depths": (2,)},
    r"stage_depths \[1, 2\] are 3 blocks, depth is 2": {"stage_depths": (1, 2)},
    r"stage_dims \[16, 32\] .* the first of them dim 8": {**PYRAMID, "stage_dims": (16, 32)},
    r"stage_dims \[8\] must hold one width per stage": {**PYRAMID, "stage_dims": (8,)},
    r"stage_dims entry 12 is not divisible by head width 8": {
        **PYRAMID,
        "stage_dims": (8, 12),
        "num_heads": 1,
    },
    r"a stage of 1x2 patches cannot be merged 2x2": {"image_size": (4, 8), **PYRAMID},
    r"image_size 18x24 is not divisible by patch_size 4": {"image_size": (18, 24), "stem": "overlap"},
    r"stem 'overlap' needs patch_size 2 or more": {"stem": "overlap", "patch_size": 1},
    r"dim 8 is not divisible by num_heads 3": {"num_heads": 3},
    r"num_heads 0": {"num_heads": 0},
    r"kernel_size 2: a pooling window": {"token_mixer": "pool", "kernel_size": 2},
    r"drop_path 1.5": {"drop_path": 1.5},
    r"mlp_ratio inf": {"mlp_ratio": float("inf")},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_exist_is_refused_when_built(message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench(**{**SIZE, **REFUSED[message]})


def test_every_problem_of_a_model_node_is_found_before_anything_is_allocated() -> None:
    sizes = {"dim": 8, "depth": 2, "patch_size": 4, "image_size": 16}
    assert check_arguments("bench_deit", sizes) == []
    assert check_arguments("bench_deit", sizes | {"stage_depths": [1, 1], "class_token": False}) == [
        "model: pool 'class' reads the class token, class_token is false: use pool 'norm-mean'"
    ]
    unknown, wrong, typo = check_arguments(
        "bench", sizes | {"mixer": "pool", "stage_depths": [1, "a"], "token_mixer": "atention"}
    )
    assert unknown.startswith("model.mixer: unknown")
    assert wrong == "model.stage_depths: [1, 'a'] is not a list [an integer, ...] or nothing"
    assert typo.startswith("model.token_mixer: 'atention' is not one of attention, depthwise")


def shapes(preset: str, **flips: Any) -> dict[str, tuple[int, ...]]:
    settings = {**bench_preset(preset), "kernel_size": 3, "num_heads": 2, **flips}
    return {name: tuple(tensor.shape) for name, tensor in bench(**SIZE, **settings).state_dict().items()}


STATISTICS = r".*norm\.(running_mean|running_var|num_batches_tracked)"
FLIPS: list[tuple[str, dict[str, Any], str | None]] = [
    # preset, flip, what may come, go or change its shape: nothing else does
    ("convmixer", {"norm": "layer"}, STATISTICS),
    ("convmixer", {"norm": "none"}, r".*norm\..*"),
    ("convmixer", {"residual": "each"}, None),
    ("convmixer", {"residual": "none"}, None),
    ("convmixer", {"activation": "relu"}, None),
    ("convmixer", {"norm_place": "after-mixer"}, None),
    ("convmixer", {"kernel_size": 5}, r".*token\.mixer\.conv\.weight"),
    ("convmixer", {"token_mixer": "attention"}, r".*token\.mixer\..*"),
    ("convmixer", {"token_mixer": "identity"}, r".*token\.mixer\..*"),
    ("convmixer", {"stem": "overlap"}, r"stem\.(trunk\..*|proj\.weight)"),
    ("convmixer", {"stem": "conv-pool"}, r"stem\.(trunk\..*|proj\.weight)"),
    ("convmixer", {"position": "learned"}, r"position\.table"),
    ("convmixer", {"final_norm": True}, r"norm\..*"),
    ("deit", {"position": "none"}, r"position\.table"),
    ("deit", {"position": "relative"}, r"position\.table|.*relative_bias\.table"),
    ("deit", {"norm": "batch"}, STATISTICS + r"|norm\..*"),
    ("deit", {"norm_place": "after-sum"}, None),
    ("deit", {"residual": "block"}, None),
    ("deit", {"layer_scale": 0.1}, r".*\.scale"),
    ("deit", {"channel_mixer": "gated"}, r".*channel\.mixer\.fc1\..*"),
    ("deit", {"distillation_token": True}, r"prefix\.dist_token|heads\.dist\..*|position\.table"),
    ("mlp_mixer", {"token_mixer": "token-linear"}, r".*token\.mixer\..*"),
    ("mlp_mixer", {"activation_place": "none"}, None),
    ("resmlp", {"norm": "layer"}, r".*norm\..*"),  # alpha and beta are weight and bias there
]


@pytest.mark.parametrize(("preset", "flip", "allowed"), FLIPS)
def test_a_flip_changes_what_it_says_and_nothing_else(
    preset: str, flip: dict[str, Any], allowed: str | None
) -> None:
    before, after = shapes(preset), shapes(preset, **flip)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert bool(changed) == (allowed is not None)
    stray = [name for name in changed if not re.fullmatch(allowed or "", name)]
    assert stray == []


@pytest.mark.parametrize("stem", get_args(Stem))
@pytest.mark.parametrize("shape", [{}, PYRAMID], ids=["isotropic", "pyramid"])
def test_features_at_every_depth(stem: Any, shape: dict[str, Any]) -> None:
    model = bench(**SIZE, stem=stem, token_mixer="depthwise", position="none", **shape).eval()
    for image, grid in (((16, 24), (4, 6)), ((8, 32), (2, 8))):
        x = torch.randn(2, 2, *image)
        found = list(model.features_by_depth(x))
        last = (grid[0] // 2, grid[1] // 2) if shape else grid
        assert [features.grid for features in found] == [grid, grid, last]
        assert [features.tokens.shape[2] for features in found] == [8, 8, 16 if shape else 8]
        torch.testing.assert_close(model.features(x).tokens, model.norm(found[-1].tokens))
        pooled = model.norm(found[-1].tokens).mean(1)
        torch.testing.assert_close(model(x), model.heads["cls"](pooled))


@pytest.mark.parametrize("shape", [{}, PYRAMID], ids=["isotropic", "pyramid"])
def test_activation_checkpointing_changes_nothing(shape: dict[str, Any]) -> None:
    settings = {"norm": "batch", "norm_place": "after-activation", "drop_path": 0.3, "dropout": 0.1}
    plain = bench(**SIZE, token_mixer="depthwise", **settings, **shape)
    recomputed = copy.deepcopy(plain)
    recomputed.activation_checkpointing = True
    x = torch.randn(8, 2, 16, 24)
    for model in (plain, recomputed):
        torch.manual_seed(5)
        model.train()(x).square().sum().backward()
    for (name, ours), theirs in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(plain.named_buffers(), recomputed.buffers(), strict=True):
        assert torch.equal(ours, theirs), name  # BatchNorm saw the batch once


def test_a_pyramid_is_described_saved_and_built_again() -> None:
    arguments = {**SIZE, "image_size": [16, 24], "stage_depths": [1, 1], "token_mixer": "token-mlp"}
    spec = make_spec("bench", arguments)
    assert spec.arguments["stage_depths"] == [1, 1]
    model = build(spec.from_json(spec.to_json()))
    assert {
        tuple(p.shape) for n, p in model.named_parameters() if n.endswith("token.mixer.mlp.fc1.weight")
    } == {
        (4, 24),
        (8, 6),
    }  # each stage's token-MLP has the places of its own grid
    with pytest.raises(UsageError, match=r"another image_size|built for"):
        model(torch.randn(1, 2, 24, 16))


def test_show_counts_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--model.dim", "64", "--model.depth", "8", "--model.patch_size", "2", "--model.image_size", "32"]
    flips = ["--model.token_mixer", "depthwise", "--model.stage_depths", "[2,2,4]"]
    assert cli.main(["models", "show", "bench", *size, *flips]) == 0
    text = capsys.readouterr().out
    assert "stage_depths=[2, 2, 4]" in text
    assert "16 (4 x 4 patches)" in text
